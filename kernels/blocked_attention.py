"""Causal attention by torch's own matrix products, one block of queries at a time: what runs on CPUs.

All query heads that read one key-value head are rows of one product, so that keys and values are never expanded and
multi-query attention is a few large products. A block multiplies only the keys that it may see. Backward computes the
probabilities of a block again (Dao 2023, FlashAttention-2), so that nothing but query, key and value is kept. A block
sees whole rows, so its softmax needs no running maximum; in bf16 and fp16 the scores are rounded to that dtype first.

Why not torch's fused kernel: on CPUs its backward in bf16 takes three to four times as long, and it knows neither
windows nor dropout by counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megacode.kernels.counter_random import AttentionDropout, attention_keep_mask, check_heads
from megacode.kernels.reference import check_documents

_MOST_ROWS = 128
_FEWEST_ROWS = 16
_SCORES_IN_CACHE = 1 << 19


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> Tensor:
    """`reference.causal_attention`: query [b, s, n, d], key and value [b, s, k, d] -> [b, s, n, d].

    Keeps O(s) memory for backward and O(s) per row of a block while it works; keys of other documents are skipped.
    Raises ValueError where n % k != 0, where the dropout does not cover the heads, or the documents not the rows.
    """
    heads, kv_heads = query.shape[2], key.shape[2]
    if heads % kv_heads:
        raise ValueError(f"query heads ({heads}) must be a multiple of key-value heads ({kv_heads})")
    if dropout is not None:
        check_heads(dropout, heads)
    if documents is not None:
        check_documents(documents, *query.shape[:2])
    attended: Tensor = _BlockedAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, dropout, window, documents
    )
    return attended


@dataclass(frozen=True)
class _Block:
    """Queries `rows` of the sequences `sequences`, and the keys `keys` that at least one of them sees."""

    sequences: range
    rows: range
    keys: range


class _Problem:
    """One call's sizes, and its blocks. `width` is d; `group` query heads read each of `kv_heads` heads."""

    def __init__(
        self,
        query: Tensor,
        kv_heads: int,
        dropout: AttentionDropout | None,
        window: int | None,
        documents: tuple[int, ...] | None,
    ) -> None:
        self.batch, self.length, self.heads, self.width = query.shape
        self.kv_heads, self.group = kv_heads, self.heads // kv_heads
        self.device, self.dtype = query.device, query.dtype
        self.dropout = dropout if dropout is not None and dropout.probability > 0.0 else None
        self.window = window if window is not None and window < self.length else None
        self.documents = documents
        fitting = _SCORES_IN_CACHE // (self.batch * self.heads * self.length)
        self.height = min(self.length, max(_FEWEST_ROWS, min(_MOST_ROWS, fitting)))

    def later(self) -> Tensor:
        """What, added to the scores of a block's own tokens, hides later ones, [rows, 1, rows]; not to be kept."""
        hidden = torch.full((self.height, self.height), float("-inf"), dtype=self.dtype, device=self.device)
        return hidden.triu(1).unsqueeze(1)

    def blocks(self) -> Iterator[_Block]:
        """Every query once."""
        for sequences, document in self._documents():
            for start in range(document.start, document.stop, self.height):
                stop = min(start + self.height, document.stop)
                first = document.start if self.window is None else max(document.start, start - self.window + 1)
                yield _Block(sequences, range(start, stop), range(first, stop))

    def _documents(self) -> Iterator[tuple[range, range]]:
        """Sequences, and tokens of them that are one document."""
        if self.documents is None:
            yield range(self.batch), range(self.length)
            return
        end = 0
        for length in self.documents:
            sequence, start = divmod(end, self.length)
            yield range(sequence, sequence + 1), range(start, start + length)
            end += length

    def fold(self, x: Tensor) -> Tensor:
        """Queries [b, s, n, d] -> [b k, s g, d]: for each key-value head, the rows that read it."""
        split = x.reshape(self.batch, self.length, self.kv_heads, self.group, self.width)
        return split.transpose(1, 2).reshape(self.batch * self.kv_heads, -1, self.width)

    def unfold(self, x: Tensor) -> Tensor:
        """The inverse of `fold`."""
        split = x.view(self.batch, self.kv_heads, self.length, self.group, self.width)
        return split.transpose(1, 2).reshape(self.batch, self.length, self.heads, self.width)

    def fold_keys(self, x: Tensor) -> Tensor:
        """Keys or values [b, s, k, d] -> [b k, s, d]."""
        return x.transpose(1, 2).reshape(self.batch * self.kv_heads, self.length, self.width)

    def unfold_keys(self, x: Tensor) -> Tensor:
        """The inverse of `fold_keys`."""
        return x.view(self.batch, self.kv_heads, self.length, self.width).transpose(1, 2)

    def rows(self, block: _Block) -> tuple[slice, slice]:
        """Where a block's queries are in what `fold` makes."""
        return self._heads(block), slice(block.rows.start * self.group, block.rows.stop * self.group)

    def keys(self, block: _Block) -> tuple[slice, slice]:
        """Where a block's keys are in what `fold_keys` makes."""
        return self._heads(block), slice(block.keys.start, block.keys.stop)

    def _heads(self, block: _Block) -> slice:
        return slice(block.sequences.start * self.kv_heads, block.sequences.stop * self.kv_heads)

    def probabilities(self, query: Tensor, key: Tensor, block: _Block, later: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(d)) of a block, before dropout: [its b k, rows g, keys]."""
        rows, keys = query[self.rows(block)], key[self.keys(block)]
        scores = rows.new_empty(len(rows), rows.shape[1], len(block.keys))
        torch.baddbmm(scores, rows, keys.mT, beta=0, alpha=self.width**-0.5, out=scores)
        self._hide(scores.view(len(rows), len(block.rows), self.group, -1), block, later)
        return torch.softmax(scores, dim=-1)

    def keep(self, block: _Block) -> Tensor | None:
        """What dropout multiplies a block's probabilities with, or None: [its b k, rows g, keys]."""
        if self.dropout is None:
            return None
        mask = attention_keep_mask(
            self.dropout, self.batch, self.heads, self.length, self.device, block.rows, block.keys
        )
        mask = mask[block.sequences.start : block.sequences.stop]
        split = mask.unflatten(1, (self.kv_heads, self.group)).transpose(2, 3)
        factor = torch.full((), 1.0 / (1.0 - self.dropout.probability), dtype=self.dtype, device=self.device)
        return split.reshape(-1, len(block.rows) * self.group, len(block.keys)) * factor

    def _hide(self, scores: Tensor, block: _Block, later: Tensor) -> None:
        """Put -inf where a query does not see a key; `scores` is [b k, rows, g, keys]."""
        count = len(block.rows)
        scores[..., -count:] += later[:count, :, :count]
        if self.window is not None and block.rows.stop - block.keys.start > self.window:
            rows = torch.arange(block.rows.start, block.rows.stop, device=self.device).unsqueeze(1)
            keys = torch.arange(block.keys.start, block.keys.stop, device=self.device)
            scores.masked_fill_((keys <= rows - self.window).unsqueeze(1), float("-inf"))


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: AttentionDropout | None,
        window: int | None,
        documents: tuple[int, ...] | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.problem = problem = _Problem(query, key.shape[2], dropout, window, documents)
        q, k, v = problem.fold(query), problem.fold_keys(key), problem.fold_keys(value)
        out, later = torch.empty_like(q), problem.later()
        for block in problem.blocks():
            weights = problem.probabilities(q, k, block, later)
            if (keep := problem.keep(block)) is not None:
                weights *= keep
            torch.bmm(weights, v[problem.keys(block)], out=out[problem.rows(block)])
        return problem.unfold(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        query, key, value = ctx.saved_tensors
        q, k, v, dout = problem.fold(query), problem.fold_keys(key), problem.fold_keys(value), problem.fold(grad)
        dq, wide = torch.empty_like(q), torch.promote_types(q.dtype, torch.float32)
        dk, dv = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
        later = problem.later()
        for block in problem.blocks():
            rows, keys = problem.rows(block), problem.keys(block)
            probabilities, keep = problem.probabilities(q, k, block, later), problem.keep(block)
            dweights = torch.bmm(dout[rows], v[keys].mT)
            weights = probabilities if keep is None else probabilities * keep
            dv[keys] += torch.bmm(weights.mT, dout[rows])
            if keep is not None:
                dweights *= keep
            dscores = torch._softmax_backward_data(dweights, probabilities, -1, q.dtype)
            torch.bmm(dscores, k[keys], out=dq[rows])
            dk[keys] += torch.bmm(dscores.mT, q[rows])
        scale = problem.width**-0.5
        dquery = problem.unfold(dq.mul_(scale))
        dkey, dvalue = problem.unfold_keys(dk.mul_(scale).to(q.dtype)), problem.unfold_keys(dv.to(q.dtype))
        return dquery, dkey, dvalue, None, None, None
