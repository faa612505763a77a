"""Causal attention of StarCoder over tp = 4: plain, with dropout, with documents; of StarCoder2-3B: in its window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import blocked_attention, flash_attention, torch_ops
from megacode.kernels import flash_attention_choices as choices
from megacode.kernels.cases.case import Case, Cost
from megacode.kernels.cases.partial_sums import BF16, FP32
from megacode.kernels.counter_random import AttentionDropout, fold_seed
from megacode.kernels.flash_attention_choices import Tile
from megacode.kernels.flash_attention_documents import DocumentBounds

WIDTH = 128
KEY = 8  # bytes
# Of code files packed into one sequence: long ones, a short one, one token.
DOCUMENTS = (2048, 512, 3584, 1, 1023, 1024)


@dataclass(frozen=True)
class Problem:
    """One sequence of bf16: `heads` query heads, `kv_heads` key-value heads."""

    length: int
    heads: int
    kv_heads: int
    dropout: AttentionDropout | None = None
    window: int | None = None
    documents: tuple[int, ...] | None = None

    def first_seen(self) -> list[int]:
        """Return the first key that each query sees."""
        ends = list(accumulate(self.documents or (self.length,)))
        starts = [start for start, end in zip([0, *ends], ends, strict=False) for _ in range(start, end)]
        return [max(start, row - (self.window or self.length) + 1) for row, start in enumerate(starts)]

    def tiles(self) -> tuple[Tile, Tile, Tile]:
        """Return what an H100 runs forward, dQ and dK, dV on unless it timed them: its cost is counted for these."""
        bounded = self.window is not None or self.documents is not None
        mode = choices.Mode(90, WIDTH, BF16, dropout=self.dropout is not None, bounded=bounded, ragged=False)
        of_kernels = choices.forward_tiles, choices.query_grad_tiles, choices.key_value_grad_tiles
        forward, query_grad, key_value_grad = (of_kernel(mode)[0] for of_kernel in of_kernels)
        return forward, query_grad, key_value_grad


def costs(problem: Problem) -> Mapping[str, Cost]:
    """Two matrix products forward, three for dQ and four for dK and dV, of the pairs that the masks leave."""
    length, heads, kv_heads = problem.length, problem.heads, problem.kv_heads
    low = problem.first_seen()
    pairs = heads * sum(row - first + 1 for row, first in enumerate(low))
    forward, query_grad, key_value_grad = problem.tiles()
    group = heads // kv_heads
    parts = flash_attention.group_parts(group, length // key_value_grad.key * kv_heads)
    row = WIDTH * BF16
    queries, keys, statistics = length * heads * row, length * kv_heads * row, length * heads * FP32
    key_row = 0 if problem.dropout is None else KEY  # a row's random key, from dQ to dK and dV
    random_keys = length * heads * key_row
    grads = 2 * keys if parts == 1 else 2 * parts * length * kv_heads * WIDTH * FP32

    def walked(tile: Tile) -> int:
        """Rows of K and V that all query tiles of all heads read."""
        begins = ((first, low[first] // tile.key * tile.key) for first in range(0, length, tile.query))
        return heads * sum(first + tile.query - begin for first, begin in begins)

    def walked_back(tile: Tile) -> int:
        """Rows of Q and dO that all key tiles read for all heads."""
        ends = {first: row + 1 for row, first in enumerate(first // tile.key for first in low)}
        # A key tile is seen until the last query whose first key lies in it or before.
        last = list(accumulate((ends.get(number, 0) for number in range(length // tile.key)), max))
        begins = (number * tile.key // tile.query * tile.query for number in range(length // tile.key))
        return heads * sum(-(-end // tile.query) * tile.query - begin for end, begin in zip(last, begins, strict=True))

    least = {
        "attention_forward_kernel": 2 * queries + 2 * keys + statistics,
        "attention_query_grad_kernel": 4 * queries + 2 * keys + 2 * statistics + random_keys,
        "attention_key_value_grad_kernel": (
            2 * queries + 2 * keys + 2 * statistics + random_keys + (grads if parts == 1 else 0)
        ),
    }
    moved = {
        "attention_forward_kernel": 2 * queries + statistics + 2 * walked(forward) * row,
        "attention_query_grad_kernel": 4 * queries + 2 * statistics + random_keys + 2 * walked(query_grad) * row,
        "attention_key_value_grad_kernel": (
            2 * parts * keys + walked_back(key_value_grad) * (2 * row + 2 * FP32 + key_row) + grads
        ),
    }
    products = dict(zip(least, (2, 3, 4), strict=True))
    found = {name: Cost(moved[name], least[name], products[name] * 2 * pairs * WIDTH) for name in least}
    if parts > 1:
        added = grads + 2 * keys
        found["attention_sum_parts_kernel"] = Cost(added, 2 * keys, grads // FP32)
    return found


def exact(query: Tensor, key: Tensor, value: Tensor, *options: Any) -> Tensor:
    """`reference.causal_attention` in fp32, by blocks of rows: whole, its scores would not fit on a GPU."""
    return blocked_attention.causal_attention(query.float(), key.float(), value.float(), *options)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's fused attention."""
    tensors = (tensor.transpose(1, 2) for tensor in (query, key, value))
    attended = functional.scaled_dot_product_attention(*tensors, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2)


def case(name: str, problem: Problem) -> Case:
    """Attend in one sequence."""
    length, dropout, window, documents = problem.length, problem.dropout, problem.window, problem.documents
    is_plain = dropout is window is documents is None

    def make_inputs(device: torch.device) -> tuple[Any, ...]:
        tensors = (
            torch.randn(1, length, heads, WIDTH, dtype=torch.bfloat16, device=device, requires_grad=True)
            for heads in (problem.heads, problem.kv_heads, problem.kv_heads)
        )
        # The layers of a model share the bounds, so they are not part of one layer's time.
        return *tensors, None if documents is None else DocumentBounds.of(documents, 1, length, device)

    def on_triton(query: Tensor, key: Tensor, value: Tensor, bounds: DocumentBounds | None) -> Tensor:
        return flash_attention.causal_attention(query, key, value, dropout, window, bounds)

    def by_lengths(function: Any, query: Tensor, key: Tensor, value: Tensor, _bounds: DocumentBounds | None) -> Tensor:
        return function(query, key, value, *(() if function is sdpa else (dropout, window, documents)))

    features = [f"dropout {dropout.probability}"] if dropout else []
    features += [f"window {window:,}"] if window else []
    features += [f"{len(documents)} documents"] if documents else []
    rivals = {"sdpa": sdpa} if is_plain else {"torch": torch_ops.causal_attention}
    return Case(
        op="attention",
        shape=", ".join([f"{name}, s {length:,}, n {problem.heads}, k {problem.kv_heads}, d {WIDTH}, bf16", *features]),
        make_inputs=make_inputs,
        triton=on_triton,
        reference=partial(by_lengths, exact),
        costs=costs(problem),
        tolerance=2e-2,
        baselines={rival: partial(by_lengths, function) for rival, function in rivals.items()},
    )


def cases() -> tuple[Case, ...]:
    """StarCoder plain, with dropout, and with documents; StarCoder2-3B."""
    dropout = AttentionDropout(probability=0.1, seed=fold_seed(1234, 5), first_head=12, num_heads=48)
    return (
        case("StarCoder", Problem(8192, 12, 1)),
        case("StarCoder", Problem(8192, 12, 1, dropout=dropout)),
        case("StarCoder", Problem(8192, 12, 1, documents=DOCUMENTS)),
        case("StarCoder2-3B", Problem(16384, 24, 2, window=4096)),
    )
