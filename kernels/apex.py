"""AdamW and LayerNorm by NVIDIA apex, where its CUDA extensions are installed.

apex is looked for by its compiled modules `amp_C` and `fused_layer_norm_cuda` and the functions in them, never by the
name `apex`: PyPI has an unrelated package of that name, and NVIDIA's own can be installed without the extensions.

Limits: `memory_efficient`, which backward is told here, came to apex in 2023; older ones are refused by its own error.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from megacode.kernels.torch_optim_loss import AdamWHyper

_FUNCTIONS = MappingProxyType(
    {"amp_C": ("multi_tensor_adam",), "fused_layer_norm_cuda": ("forward_affine", "backward_affine")}
)
_REMEDY = (
    "Build NVIDIA apex from https://github.com/NVIDIA/apex with its C++ and CUDA extensions, against the torch that is "
    "installed (pip's `apex` is another project), or choose 'auto' instead of 'apex'"
)
_CHUNK = 1 << 16  # elements that one block of threads updates, as apex's FusedAdam has it
_DECOUPLED_DECAY, _BIAS_CORRECTION = 1, 1


class ApexUnavailable(ValueError):
    """NVIDIA apex cannot be used here; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Apex:
    """Operations by apex, with the signatures of `reference.layer_norm` and `reference.adamw`.

    layer_norm: x [..., h], weight and bias [h] in one dtype; differentiable.
    adamw:      leaves the gradient divided, and copies the masters to the weights in a second pass.
    """

    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    adamw: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, AdamWHyper, int, Tensor | None], None]


def find_apex() -> Apex:
    """Import apex's extensions. Raises ApexUnavailable where one, or a function in it, is missing."""
    found = {module: _import(module) for module in _FUNCTIONS}
    for module, functions in _FUNCTIONS.items():
        for function in functions:
            if not callable(getattr(found[module], function, None)):
                raise ApexUnavailable(
                    f"{module} is installed and has no {function}: not NVIDIA apex's, or too old. {_REMEDY}"
                )
    return Apex(
        layer_norm=partial(_layer_norm, found["fused_layer_norm_cuda"]),
        adamw=partial(_adamw, found["amp_C"].multi_tensor_adam),
    )


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that the extension was linked to is missing
        raise ApexUnavailable(f"{_why_missing()}: {module} cannot be imported ({error}). {_REMEDY}") from error


def _why_missing() -> str:
    """What the package named apex is, judged by its files: importing a stranger may do anything."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return "NVIDIA apex is not installed"
    folders = spec.submodule_search_locations or []
    if any(Path(folder, "multi_tensor_apply").is_dir() for folder in folders):
        return "NVIDIA apex is installed without its CUDA extensions, or they do not fit this torch"
    return "the package named apex that is installed is not NVIDIA's"


def _adamw(
    multi_tensor_adam: Callable[..., None],
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    weights: Tensor | None,
    hyper: AdamWHyper,
    update: int,
    divisor: Tensor | None,
) -> None:
    """`reference.adamw`, with apex's function first."""
    if divisor is not None:
        gradient.div_(divisor)
    multi_tensor_adam(
        _CHUNK,
        torch.zeros(1, dtype=torch.int32, device=master.device),  # where apex notes an overflow; not asked for
        [[gradient], [master], [exp_avg], [exp_avg_sq]],
        hyper.lr,
        hyper.beta1,
        hyper.beta2,
        hyper.eps,
        update,
        _DECOUPLED_DECAY,
        _BIAS_CORRECTION,
        hyper.weight_decay,
    )
    if weights is not None:
        weights.copy_(master)


class _LayerNorm(torch.autograd.Function):
    """Autograd for apex's two functions; x, weight and bias are contiguous."""

    @staticmethod
    def forward(ctx, extension: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        output, mean, inverse_deviation = extension.forward_affine(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        ctx.extension, ctx.eps = extension, eps
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        is_memory_efficient = False  # which would be to give the output for x
        grad_x, grad_weight, grad_bias = ctx.extension.backward_affine(
            grad_output.contiguous(), mean, inverse_deviation, x, weight.shape, weight, bias, ctx.eps,
            is_memory_efficient,
        )  # fmt: skip
        return None, grad_x, grad_weight, grad_bias, None


def _layer_norm(extension: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm`, with apex's extension first. Raises ValueError where dtypes differ."""
    if not x.dtype == weight.dtype == bias.dtype:
        raise ValueError(f"apex's LayerNorm takes one dtype, got {x.dtype}, {weight.dtype} and {bias.dtype}")
    return _LayerNorm.apply(extension, x.contiguous(), weight.contiguous(), bias.contiguous(), eps)
