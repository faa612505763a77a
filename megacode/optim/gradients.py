"""Gradient accumulation in fp32, whatever the weights' dtype.

A parameter's `grad` is its place in a flat fp32 buffer, to which every micro-batch's backward adds, as StarCoder was
trained (Megatron's accumulate_allreduce_grads_in_fp32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from megacode.layers.spec import ParamSpec
from megacode.optim.flat import FlatLayout

NamedParameters = Sequence[tuple[ParamSpec, nn.Parameter]]


class GradientBuffer:
    """The fp32 gradients of one rank's parameters.

    flat:    those of the parameters in `layout`, in its order; fp32 [layout.total].
    by_name: every parameter's accumulated gradient in the parameter's shape, a view of `flat`, or of memory of its own
             for a tied copy, which is in no layout.
    """

    def __init__(self, layout: FlatLayout, parameters: NamedParameters) -> None:
        device = parameters[0][1].device
        self.flat = torch.zeros(layout.total, dtype=torch.float32, device=device)
        by_name = {
            segment.spec.name: self.flat[segment.start : segment.stop].view(segment.shape)
            for segment in layout.segments
        }
        self._apart: list[Tensor] = []
        for spec, parameter in parameters:
            if spec.name not in by_name:
                by_name[spec.name] = torch.zeros_like(parameter, dtype=torch.float32)
                self._apart.append(by_name[spec.name])
            parameter.grad_dtype = None  # whatever the weight's is, its gradient is fp32
            parameter.grad = by_name[spec.name]
        self.by_name: Mapping[str, Tensor] = by_name

    def zero(self) -> None:
        """Forget everything accumulated."""
        self.flat.zero_()
        for gradient in self._apart:
            gradient.zero_()
