"""The operations on torch's own kernels: what runs on CPUs, and anywhere Triton is not wanted.

Shapes and meaning are those of `reference.py`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from megacode.kernels import blocked_attention
from megacode.kernels.counter_random import AttentionDropout


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` by torch.nn.functional.layer_norm: x [..., h], weight and bias [h]."""
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> Tensor:
    """`reference.causal_attention`: query [b, s, n, d], key and value [b, s, k, d].

    On CUDA without dropout, window or documents by scaled_dot_product_attention; everything else by
    `blocked_attention`, since torch's fused kernels draw dropout from a stateful generator that no other layout could
    repeat, and know no documents.
    """
    is_plain = (dropout is None or dropout.probability == 0.0) and (window is None or window >= query.shape[1])
    if not (query.is_cuda and is_plain and documents is None):
        return blocked_attention.causal_attention(query, key, value, dropout, window, documents)
    attended = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return attended.transpose(1, 2)
