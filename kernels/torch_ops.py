"""The operations on torch's own kernels: what runs on CPU, and anywhere Triton is not wanted.

Shapes and meaning are those of `reference.py`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from megacode.kernels import reference
from megacode.kernels.counter_random import AttentionDropout


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` by torch.nn.functional.layer_norm: x [..., h], weight and bias [h]."""
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: AttentionDropout | None, window: int | None = None
) -> Tensor:
    """`reference.causal_attention` by scaled_dot_product_attention: query [b, s, n, d], key and value [b, s, k, d].

    Limits: with dropout it takes the reference path, O(s^2) memory, because torch's fused kernels draw their mask from
    a stateful generator that no other layout could repeat. A window shorter than s is a mask [s, s], made anew at each
    call, and saves no work.
    """
    if dropout is not None and dropout.probability > 0.0:
        return reference.causal_attention(query, key, value, dropout, window)
    length = query.shape[1]
    is_windowed = window is not None and window < length
    attended = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=reference.seen_keys(length, window, query.device) if is_windowed else None,
        is_causal=not is_windowed,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return attended.transpose(1, 2)
