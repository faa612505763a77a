"""Which implementation of each operation runs, decided once, by name, and never by a silent fallback.

Triton is imported only when it is chosen, so a machine without it can run everything on torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from megacode.kernels import torch_ops
from megacode.kernels.counter_random import AttentionDropout

REQUESTS = ("auto", "torch", "triton")


class KernelUnavailable(ValueError):
    """The requested kernels cannot run on this machine; the message says what, why and what to do."""


@dataclass(frozen=True)
class Implementations:
    """The operations that a model calls.

    name_by_op:       what runs for each operation, for people to read at the start of a run.
    layer_norm:       (x [..., h], weight [h], bias [h], eps) -> [..., h]; see `reference.layer_norm`.
    causal_attention: (query [b, s, n, d], key [b, s, k, d], value [b, s, k, d], dropout, window, documents) ->
                      [b, s, n, d]; see `reference.causal_attention`.
    """

    name_by_op: Mapping[str, str]
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    causal_attention: Callable[
        [Tensor, Tensor, Tensor, AttentionDropout | None, int | None, tuple[int, ...] | None], Tensor
    ]


def choose(requested: str, device_type: str) -> Implementations:
    """Return the operations for `requested` ("auto", "torch" or "triton") on a torch device type such as "cuda".

    "auto" is Triton on cuda and torch elsewhere. Triton off the GPU is allowed only in Triton's interpreter.
    Raises KernelUnavailable where the request is unknown, or Triton is chosen and missing or cannot run there.
    """
    if requested not in REQUESTS:
        raise KernelUnavailable(f"kernels = {requested!r} is unknown; choose one of {', '.join(REQUESTS)}")
    if requested == "triton" or (requested == "auto" and device_type == "cuda"):
        return _triton(requested, device_type)
    attention = "scaled_dot_product_attention" if device_type == "cuda" else "in blocks"
    return Implementations(
        name_by_op=MappingProxyType({"attention": f"torch ({attention})", "layer_norm": "torch"}),
        layer_norm=torch_ops.layer_norm,
        causal_attention=torch_ops.causal_attention,
    )


def _triton(requested: str, device_type: str) -> Implementations:
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
    from megacode.kernels import flash_attention, layer_norm

    how = "interpreted" if interpreted else triton.__version__
    return Implementations(
        name_by_op=MappingProxyType({"attention": f"triton {how} (flash)", "layer_norm": f"triton {how}"}),
        layer_norm=layer_norm.layer_norm,
        causal_attention=flash_attention.causal_attention,
    )
