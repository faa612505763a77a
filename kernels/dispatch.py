"""Which implementation of each operation runs, decided once, by name, and never by a silent fallback.

Triton and apex are imported only when they are chosen, so a machine without them runs everything on torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from megacode.kernels import torch_elementwise, torch_gelu, torch_ops, torch_optim_loss
from megacode.kernels.counter_random import AttentionDropout, HiddenDropout
from megacode.kernels.torch_optim_loss import AdamWHyper, VocabCrossEntropy
from megacode.kernels.tuning import FIXED, Chooser

IMPLEMENTATIONS = ("auto", "torch", "triton")
APEX_OPS = ("layer_norm", "adamw")
OPS = (
    "layer_norm",
    "add_layer_norm",
    "bias_dropout_residual",
    "bias_gelu",
    "rotary",
    "causal_attention",
    "cross_entropy",
    "adamw",
    "sum_of_squares",
)


class KernelUnavailable(ValueError):
    """The requested kernels cannot run on this machine; the message says what, why and what to do."""


class CausalAttention(Protocol):
    """`reference.causal_attention`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: AttentionDropout | None,
        window: int | None = None,
        documents: Any = None,
    ) -> Tensor:
        """query [b, s, n, d], key and value [b, s, k, d] -> [b, s, n, d]; documents by `prepare_documents`."""


@dataclass(frozen=True)
class Implementations:
    """The operations that a model and its optimizer call; meaning and shapes are those of `reference.py`.

    name_by_op:       what runs for each operation, for people to read at the start of a run.
    bias_gelu:        (x, bias, lean); if `lean` it keeps nothing but x and the bias for backward. `bias_gelu_again`
                      gives the same bits from these, without a gradient.
    rotary:           may write over x.
    prepare_documents: (lengths in tokens, b, s, device) -> what attention takes, made once for all layers.
    cross_entropy:    may write over the logits.
    adamw:            may use the gradient up.
    """

    name_by_op: Mapping[str, str]
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    add_layer_norm: Callable[
        [Tensor, Tensor, Tensor, HiddenDropout | None, Tensor, Tensor, float], tuple[Tensor, Tensor]
    ]
    bias_dropout_residual: Callable[[Tensor, Tensor, Tensor, HiddenDropout | None], Tensor]
    bias_gelu: Callable[[Tensor, Tensor, bool], Tensor]
    bias_gelu_again: Callable[[Tensor, Tensor], Tensor]
    rotary: Callable[[Tensor, float], Tensor]
    prepare_documents: Callable[[tuple[int, ...], int, int, torch.device], Any]
    causal_attention: CausalAttention
    cross_entropy: Callable[[Tensor, Tensor], VocabCrossEntropy]
    adamw: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, AdamWHyper, int, Tensor | None], None]
    sum_of_squares: Callable[[Tensor], Tensor]


def choose(
    implementation: str, device_type: str, apex_ops: tuple[str, ...] = (), chooser: Chooser = FIXED
) -> Implementations:
    """Return the operations for `implementation` on a torch device type such as "cuda".

    "auto" is Triton on cuda and torch elsewhere. Triton off the GPU is allowed only in Triton's interpreter.
    `apex_ops`, of "layer_norm" and "adamw", are NVIDIA apex's instead. `chooser` picks the tiles of Triton's attention.
    Raises KernelUnavailable where a request is unknown, or what it names is missing or cannot run there.
    """
    if implementation not in IMPLEMENTATIONS:
        raise KernelUnavailable(f"kernels = {implementation!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "triton" or (implementation == "auto" and device_type == "cuda"):
        chosen = _triton(implementation, device_type, chooser)
    else:
        chosen = _torch(device_type)
    return _with_apex(chosen, apex_ops, device_type) if apex_ops else chosen


def _torch(device_type: str) -> Implementations:
    attention = "scaled_dot_product_attention" if device_type == "cuda" else "in blocks"
    names = dict.fromkeys(OPS, "torch")
    return Implementations(
        name_by_op=MappingProxyType({**names, "causal_attention": f"torch ({attention})", "adamw": "torch (fused)"}),
        layer_norm=torch_ops.layer_norm,
        add_layer_norm=torch_elementwise.add_layer_norm,
        bias_dropout_residual=torch_elementwise.bias_dropout_residual,
        bias_gelu=torch_gelu.bias_gelu,
        bias_gelu_again=torch_gelu.bias_gelu_again,
        rotary=torch_elementwise.rotary,
        prepare_documents=lambda documents, batch, length, device: documents,
        causal_attention=torch_ops.causal_attention,
        cross_entropy=torch_optim_loss.vocab_cross_entropy,
        adamw=torch_optim_loss.adamw,
        sum_of_squares=torch_optim_loss.sum_of_squares,
    )


def _triton(requested: str, device_type: str, chooser: Chooser) -> Implementations:
    """Import the Triton kernels, or say why not."""
    try:
        import triton
    except ImportError as error:
        raise KernelUnavailable(
            f"kernels = {requested!r} on {device_type!r} means Triton, which cannot be imported ({error}); "
            "install megacode[gpu], or set kernels = 'torch'"
        ) from error
    interpreted = triton.knobs.runtime.interpret
    if device_type != "cuda" and not interpreted:
        raise KernelUnavailable(
            f"kernels = 'triton' needs a CUDA device, and this run is on {device_type!r}; set kernels = 'auto' or "
            "'torch', or start the process with TRITON_INTERPRET=1 to interpret the kernels (slow, for tests)"
        )
    from megacode.kernels import (
        adamw,
        add_layer_norm,
        bias_dropout_residual,
        bias_gelu,
        cross_entropy,
        flash_attention,
        layer_norm,
        rotary,
        squares,
    )
    from megacode.kernels.flash_attention_documents import DocumentBounds

    name = f"triton {'interpreted' if interpreted else triton.__version__}"
    names = dict.fromkeys(OPS, name)
    return Implementations(
        name_by_op=MappingProxyType({**names, "causal_attention": f"{name} (flash)"}),
        layer_norm=layer_norm.layer_norm,
        add_layer_norm=add_layer_norm.add_layer_norm,
        bias_dropout_residual=bias_dropout_residual.bias_dropout_residual,
        bias_gelu=lambda x, bias, lean: bias_gelu.bias_gelu(x, bias),  # always lean
        bias_gelu_again=bias_gelu.bias_gelu,
        rotary=rotary.rotary,
        prepare_documents=DocumentBounds.of,
        causal_attention=partial(flash_attention.causal_attention, chooser=chooser),
        cross_entropy=cross_entropy.vocab_cross_entropy,
        adamw=adamw.adamw,
        sum_of_squares=squares.sum_of_squares,
    )


def _with_apex(chosen: Implementations, ops: tuple[str, ...], device_type: str) -> Implementations:
    """`chosen`, with `ops` by NVIDIA apex, or an error that says why not."""
    from megacode.kernels.apex import ApexUnavailable, find_apex

    unknown = sorted(set(ops).difference(APEX_OPS))
    if unknown:
        raise KernelUnavailable(f"apex has no {', '.join(unknown)} here; it has {', '.join(APEX_OPS)}")
    if device_type != "cuda":
        raise KernelUnavailable(f"NVIDIA apex needs a CUDA device, and this run is on {device_type!r}; set 'auto'")
    try:
        apex = find_apex()
    except ApexUnavailable as error:
        raise KernelUnavailable(str(error)) from error
    fields: dict[str, Any] = {op: getattr(apex, op) for op in ops}
    if "layer_norm" in ops:
        fields["add_layer_norm"] = partial(torch_elementwise.add_layer_norm, layer_norm=apex.layer_norm)
    names = {**chosen.name_by_op, **dict.fromkeys(ops, "apex")}
    return replace(chosen, name_by_op=MappingProxyType(names), **fields)
