"""What every fused operation means, in plain torch.

These functions are the definitions: the Triton kernels, the torch fast paths and the tests are all held against them.
They are written to be read, so they keep every intermediate in memory (attention is O(s^2)).

Shape letters: b micro-batch, s sequence, h hidden, n query heads, k key-value heads, d head width.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from megacode.kernels.counter_random import AttentionDropout, attention_keep_mask


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each row of `x` to mean 0 and variance 1, then scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, statistics over the last dim, in fp32 (fp64 stays fp64).

    Shapes: x [..., h], weight [h], bias [h]; returns [..., h] in x's dtype.
    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, eq. 4.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    normalized = centred * torch.rsqrt(variance + eps)
    return (normalized * weight + bias).to(x.dtype)


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> Tensor:
    """Attend from each position to itself and all earlier ones, or the `window` - 1 before it.

    softmax(Q K^T / sqrt(d)) V with a causal mask; the softmax is in fp32 (fp64 stays fp64). Query head i reads
    key-value head i // (n // k): k = n is multi-head, k = 1 multi-query, anything between grouped-query attention.
    `dropout` zeroes probabilities after the softmax and scales the kept ones by 1 / (1 - probability).
    `documents`: lengths in tokens, row after row, adding up to b s; none crosses from one row into the next. A position
    then attends inside its own document only. (Their cumulative sum is the `cu_seqlens` of flash attention.)

    Shapes: query [b, s, n, d], key and value [b, s, k, d] with n % k == 0; returns [b, s, n, d] in query's dtype.
    Sources: Vaswani et al. 2017, section 3.2; Shazeer 2019 (multi-query); Ainslie et al. 2023 (grouped-query);
    Beltagy et al. 2020 (sliding window; StarCoder2 counts the token itself, as transformers does).
    Raises ValueError where n % k != 0, or where `documents` do not fit the rows.
    """
    batch, length, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"query heads ({num_heads}) must be a multiple of key-value heads ({num_kv_heads})")
    wide = torch.promote_types(query.dtype, torch.float32)
    group = num_heads // num_kv_heads
    key_bnsd = key.to(wide).transpose(1, 2).repeat_interleave(group, dim=1)
    value_bnsd = value.to(wide).transpose(1, 2).repeat_interleave(group, dim=1)
    query_bnsd = query.to(wide).transpose(1, 2)

    scores = query_bnsd @ key_bnsd.transpose(2, 3) * width**-0.5  # [b, n, s, s]
    seen = seen_keys(length, window, query.device)
    if documents is not None:
        seen = seen & same_document(documents, batch, length, query.device)
    probabilities = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    if dropout is not None:
        keep = attention_keep_mask(dropout, batch, num_heads, length, query.device)
        probabilities = probabilities * keep / (1.0 - dropout.probability)
    return (probabilities @ value_bnsd).transpose(1, 2).contiguous().to(query.dtype)


def seen_keys(length: int, window: int | None, device: torch.device) -> Tensor:
    """Bool [s, s]: whether the query of a row sees the key of a column, which is q - window < k <= q."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def same_document(documents: tuple[int, ...], batch: int, length: int, device: torch.device) -> Tensor:
    """Bool [b, 1, s, s]: whether query and key lie in one document. Raises ValueError where lengths do not fit."""
    check_documents(documents, batch, length)
    lengths = torch.tensor(documents, device=device)
    number = torch.arange(len(documents), device=device).repeat_interleave(lengths).view(batch, 1, length)
    return number.unsqueeze(-1) == number.unsqueeze(-2)


def check_documents(documents: tuple[int, ...], batch: int, length: int) -> None:
    """Raise ValueError unless the lengths fill `batch` rows of `length` tokens, each row ending with a document."""
    ends = set(accumulate(documents))
    if (
        min(documents) < 1
        or not ends.issuperset(range(length, batch * length + 1, length))
        or max(ends) > batch * length
    ):
        raise ValueError(
            f"document lengths must be at least 1 and fill {batch} rows of {length} tokens one by one, got {documents}"
        )
