"""Causal flash attention on Triton: the public function, its autograd rule and the launches.

Multi-query and grouped-query attention never expand K and V: a program that reads a query head indexes its key-value
head, and dK, dV are summed over the group inside the kernel. A sliding window and documents skip the blocks that they
hide. Nothing uses atomics and every sum has one order, so results repeat bit for bit: there is no other, faster mode.

Meaning, shapes and sources: `reference.causal_attention`. Kernels: `flash_attention_kernels.py` and
`flash_attention_key_value_kernels.py`; their tiles: `flash_attention_choices.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from megacode.kernels import flash_attention_choices as choices
from megacode.kernels import flash_attention_kernels as kernels
from megacode.kernels import flash_attention_key_value_kernels as key_value_kernels
from megacode.kernels.counter_random import AttentionDropout, check_heads, drop_threshold, signed
from megacode.kernels.flash_attention_choices import Tile
from megacode.kernels.flash_attention_documents import DocumentBounds
from megacode.kernels.tuning import FIXED, Chooser

MAX_HEAD_WIDTH = 128
MAX_LENGTH = 1 << 20  # CUDA's grid has at most 65,535 tiles of a sequence, and tiles have at least 32 rows
# Offsets inside a tile are int32: 128 rows times this stride stay below 2^31.
_MAX_ROW_STRIDE = 1 << 24
# Enough programs to keep an H100's 132 multiprocessors busy although causal programs differ in length.
_WANTED_PROGRAMS = 512
_SUM_BLOCK = 1024


@dataclass(frozen=True)
class _Call:
    """What the launches of one attention call share, made once for forward and backward.

    `capability` is the GPU's, 80 for sm_80; `window` is 0 where there is none, and `dropout` None where its
    probability is 0.
    """

    capability: int
    batch: int
    length: int
    num_heads: int
    num_kv_heads: int
    width: int
    element_bytes: int
    row_strides: tuple[int, ...]
    other_strides: tuple[int, ...]
    dropout: AttentionDropout | None
    window: int
    bounds: DocumentBounds | None
    chooser: Chooser

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @cached_property
    def mode(self) -> choices.Mode:
        """What decides which tiles are candidates."""
        bounded = self.window > 0 or self.bounds is not None
        ragged = self.length % 128 != 0 or self.width != self.constants["BLOCK_WIDTH"]
        key_tiles = triton.cdiv(self.length, 128) * self.batch * self.num_kv_heads
        loops = group_parts(self.group, key_tiles) < self.group
        dropout = self.dropout is not None
        return choices.Mode(self.capability, self.width, self.element_bytes, dropout, bounded, ragged, loops)

    @cached_property
    def scales(self) -> tuple[float, float, float]:
        """scale: makes a dot product a score in units of log2; grad_scale: of dQ, dK; keep_scale: of what is kept."""
        keep_scale = 1.0 if self.dropout is None else 1.0 / (1.0 - self.dropout.probability)
        return self.width**-0.5 * math.log2(math.e), self.width**-0.5 * keep_scale, keep_scale

    @cached_property
    def random(self) -> tuple[int, int, int]:
        """seed as int64, first head, global heads."""
        if self.dropout is None:
            return 0, 0, self.num_heads
        return signed(self.dropout.seed), self.dropout.first_head, self.dropout.num_heads

    @cached_property
    def constants(self) -> dict[str, int]:
        """Compile-time constants of every kernel; `tl.dot` wants at least 16 columns."""
        return {
            "WIDTH": self.width,
            "BLOCK_WIDTH": max(16, triton.next_power_of_2(self.width)),
            "QUERY_ROW": self.row_strides[0],
            "KEY_ROW": self.row_strides[1],
            "VALUE_ROW": self.row_strides[2],
            "HEADS": self.num_heads,
            "GROUP": self.group,
            "WINDOW": self.window,
            "DROP_BELOW": 0 if self.dropout is None else drop_threshold(self.dropout.probability),
        }

    def options(self, tile: Tile) -> dict[str, int]:
        """Return the launch options and compile-time constants of a kernel that runs on `tile`."""
        return {
            **self.constants,
            "EVEN": self.length % tile.query == 0 and self.length % tile.key == 0,
            "BLOCK_QUERY": tile.query,
            "BLOCK_KEY": tile.key,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        }

    def launch(self, kernel: str, candidates: tuple[Tile, ...], run: Callable[[Tile], Any]) -> Any:
        """Let the chooser pick a tile for `kernel`, and return what `run` gives with it."""
        shape = (self.batch, self.length, self.num_heads, self.num_kv_heads, self.width, self.element_bytes)
        key = (*shape, self.dropout is not None, self.window, self.bounds is not None)
        return run(self.chooser.choose(kernel, key, candidates, run))


def _forward(call: _Call, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return output [b, s, n, d] and the base-2 log-sum-exp of the scores, fp32 [b, n, s]."""
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sums = torch.empty((call.batch, call.num_heads, call.length), dtype=torch.float32, device=query.device)
    starts = None if call.bounds is None else call.bounds.starts
    scale, _, keep_scale = call.scales

    def run(tile: Tile) -> None:
        grid = (call.batch * call.num_heads, triton.cdiv(call.length, tile.query))
        kernels.attention_forward_kernel[grid](
            query, key, value, starts, output, log_sums, *call.other_strides, call.length,
            scale, keep_scale, *call.random, **call.options(tile),
        )  # fmt: skip

    call.launch("attention_forward", choices.forward_tiles(call.mode), run)
    return output, log_sums


def _query_grad(call: _Call, tensors: tuple[Tensor, ...], output: Tensor, grad_output: Tensor, log_sums: Tensor):
    """Return dQ [b, s, n, d]; and of each row the delta, fp32 [b, n, s], and the random key of dropout, int64 or None.

    `tensors` are query, key, value.
    """
    grad_query = torch.empty(grad_output.shape, dtype=grad_output.dtype, device=grad_output.device)
    deltas = torch.empty(log_sums.shape, dtype=torch.float32, device=log_sums.device)
    keys = None if call.dropout is None else torch.empty_like(deltas, dtype=torch.int64)
    starts = None if call.bounds is None else call.bounds.starts

    def run(tile: Tile) -> None:
        grid = (call.batch * call.num_heads, triton.cdiv(call.length, tile.query))
        kernels.attention_query_grad_kernel[grid](
            *tensors, starts, output, grad_output, log_sums, deltas, keys, grad_query, *call.other_strides,
            call.length, *call.scales, *call.random, **call.options(tile),
        )  # fmt: skip

    call.launch("attention_query_grad", choices.query_grad_tiles(call.mode), run)
    return grad_query, deltas, keys


def _key_value_grad(
    call: _Call, tensors: tuple[Tensor, ...], grad_output: Tensor, of_rows: tuple[Tensor | None, ...]
) -> Tensor:
    """Return dK and dV, [2, b, s, k, d]; `tensors` are query, key, value, `of_rows` log_sums, deltas, random keys."""
    key = tensors[1]
    ends = None if call.bounds is None else call.bounds.ends

    def run(tile: Tile) -> Tensor:
        key_tiles = triton.cdiv(call.length, tile.key)
        kv_heads = call.batch * call.num_kv_heads
        parts = group_parts(call.group, key_tiles * kv_heads)
        # Parts are added up below, so they keep fp32; a single part is the result.
        dtype = key.dtype if parts == 1 else torch.float32
        grads = torch.empty((2, parts, *key.shape), dtype=dtype, device=key.device)
        key_value_kernels.attention_key_value_grad_kernel[(kv_heads * parts, key_tiles)](
            *tensors, ends, grad_output, *of_rows, grads, *call.other_strides, call.length,
            *call.scales, call.batch, PARTS=parts, **call.options(tile),
        )  # fmt: skip
        if parts == 1:
            return grads[:, 0]
        total = torch.empty((2, *key.shape), dtype=key.dtype, device=key.device)
        key_value_kernels.attention_sum_parts_kernel[(triton.cdiv(key.numel(), _SUM_BLOCK), 2)](
            grads, total, key.numel(), PARTS=parts, BLOCK=_SUM_BLOCK, num_warps=4
        )
        return total

    return call.launch("attention_key_value_grad", choices.key_value_grad_tiles(call.mode), run)


def group_parts(group: int, programs: int) -> int:
    """Return in how many parts to sum a group's query heads, so that `programs` times it fills a GPU.

    Multi-query attention at batch 1 has few key-value tiles with long work each. The answer depends on shapes only,
    never on the GPU, and divides `group`.
    """
    divisors = (parts for parts in range(1, group + 1) if group % parts == 0)
    return next((parts for parts in divisors if parts * programs >= _WANTED_PROGRAMS), group)


class _FlashAttention(torch.autograd.Function):
    """Autograd for the kernels; saves the inputs, the output and one fp32 number per query row and head."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, call: _Call) -> Tensor:
        output, log_sums = _forward(call, query, key, value)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.call = call
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        *tensors, output, log_sums = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        grad_query, *of_rows = _query_grad(ctx.call, tuple(tensors), output, grad_output, log_sums)
        grad_key, grad_value = _key_value_grad(ctx.call, tuple(tensors), grad_output, (log_sums, *of_rows))
        return grad_query, grad_key, grad_value, None


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | DocumentBounds | None = None,
    *,
    chooser: Chooser = FIXED,
) -> Tensor:
    """`reference.causal_attention` in Triton, differentiable in query, key and value; O(s) memory.

    Shapes: query [b, s, n, d], key and value [b, s, k, d], n % k == 0, d <= 128, one dtype of bf16, fp16 or fp32, any
    strides; returns [b, s, n, d], contiguous. fp32 is exact but runs off the tensor cores. Blocks of keys that the
    `window` or the `documents` hide cost nothing. `documents`: lengths, or a `DocumentBounds` made of them, which
    spares the layers after the first the counting and the copy. `chooser` picks the tiles of the kernels.
    Raises ValueError where shapes, dtypes, the dropout's heads, the window or the documents do not fit together.
    """
    _check(query, key, value, dropout, window)
    batch, length, num_heads, width = query.shape
    if isinstance(documents, tuple):
        documents = DocumentBounds.of(documents, batch, length, query.device)
    elif documents is not None and documents.starts.shape != (batch, length):
        raise ValueError(f"documents of rows {tuple(documents.starts.shape)} do not fit query {tuple(query.shape)}")
    query, key, value = (_with_unit_width_stride(tensor) for tensor in (query, key, value))
    # stride(i) of a dim of size 1 may be anything; the kernels multiply it by 0 only.
    row_strides = tuple(tensor.stride(1) for tensor in (query, key, value))
    other_strides = tuple(tensor.stride(dim) for tensor in (query, key, value) for dim in (0, 2))
    call = _Call(
        _capability(query), batch, length, num_heads, key.shape[2], width, query.element_size(),
        row_strides, other_strides,
        dropout=None if dropout is None or dropout.probability == 0.0 else dropout,
        window=0 if window is None or window >= length else window,
        bounds=documents,
        chooser=chooser,
    )  # fmt: skip
    return _FlashAttention.apply(query, key, value, call)


def _check(query: Tensor, key: Tensor, value: Tensor, dropout: AttentionDropout | None, window: int | None) -> None:
    """Raise ValueError where the arguments do not fit together."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.dim() != 4 or key.dim() != 4 or key.shape != value.shape:
        raise ValueError(f"attention takes query [b, s, n, d] and key, value [b, s, k, d], got {shapes}")
    if query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(f"query, key and value must agree in b, s and d, got {shapes}")
    if query.numel() == 0 or query.shape[2] % key.shape[2] or query.shape[3] > MAX_HEAD_WIDTH:
        raise ValueError(f"needs b, s > 0, n % k == 0 and d <= {MAX_HEAD_WIDTH}, got {shapes}; use kernels = 'torch'")
    if query.shape[1] > MAX_LENGTH:
        raise ValueError(f"s must be at most {MAX_LENGTH} (CUDA's grid), got {shapes}; use kernels = 'torch'")
    dtypes = {query.dtype, key.dtype, value.dtype}
    if len(dtypes) > 1 or query.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"query, key and value must share one of bf16, fp16, fp32, got {sorted(map(str, dtypes))}")
    if dropout is not None:
        check_heads(dropout, query.shape[2])
    if window is not None and window < 1:
        raise ValueError(f"a window counts the token itself, so it is at least 1, got {window}")


def _capability(tensor: Tensor) -> int:
    """Return the compute capability of the GPU, 90 for sm_90; in the interpreter any will do."""
    return 80 if tensor.device.type == "cpu" else triton.runtime.driver.active.get_current_target().arch


def _with_unit_width_stride(tensor: Tensor) -> Tensor:
    """Return the tensor itself, or a contiguous copy where its strides are not what the kernels take."""
    fits = tensor.stride(3) == 1 and tensor.stride(1) <= _MAX_ROW_STRIDE
    return tensor if fits else tensor.contiguous()
