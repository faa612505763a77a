"""Runs a case: forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from megacode.kernels.cases.case import Case


def outputs_of(function: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Call one implementation of a case, and return its outputs as a tuple."""
    outputs = function(*inputs)
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def leaves_of(inputs: Sequence[Any]) -> list[Tensor]:
    """Return the inputs that want a gradient."""
    return [one for one in inputs if isinstance(one, Tensor) and one.requires_grad]


def gradients_of(
    outputs: Sequence[Tensor], inputs: Sequence[Any], received: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs that want one, from those `received` for the outputs: not set unless given."""
    if received is None:
        received = [torch.empty_like(output) for output in outputs]
    pairs = [pair for pair in zip(outputs, received, strict=True) if pair[0].requires_grad]
    return torch.autograd.grad(
        [output for output, _ in pairs],
        leaves_of(inputs),
        [gradient.to(output.dtype) for output, gradient in pairs],
    )


def launch_all(case: Case, device: torch.device) -> None:
    """Launch every kernel of a case."""
    inputs = case.make_inputs(device)
    outputs = outputs_of(case.triton, inputs)
    if case.has_backward:
        gradients_of(outputs, inputs)
