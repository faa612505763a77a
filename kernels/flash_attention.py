"""Causal flash attention on Triton: the public function, its autograd rule and the launches.

Multi-query and grouped-query attention never expand K and V: a program that reads a query head indexes its key-value
head, and dK, dV are summed over the group inside the kernel. Nothing uses atomics, so gradients repeat bit for bit.

Meaning, shapes and sources: `reference.causal_attention`. Kernels: `flash_attention_kernels.py`.

Limits: the tiles were chosen by their register use, not by time on a GPU; dropout halves the key-value gradient's tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import triton
from torch import Tensor

from megacode.kernels import flash_attention_kernels as kernels
from megacode.kernels.counter_random import AttentionDropout, check_heads, drop_threshold, signed

MAX_HEAD_WIDTH = 128
# Offsets inside a tile are int32: 128 rows times this stride stay below 2^31.
_MAX_ROW_STRIDE = 1 << 24
_MAX_GRID_Y = 65535
# Enough programs to keep an H100's 132 multiprocessors busy although causal programs differ in length.
_WANTED_PROGRAMS = 512


@dataclass(frozen=True)
class Tile:
    """Launch shape of one kernel: rows of the query and key tiles, warps, and stages of the load pipeline."""

    query: int
    key: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Tiles:
    """Launch shapes of the three large kernels for one head width and dtype width."""

    forward: Tile
    query_grad: Tile
    key_value_grad: Tile


# (padded head width up to, bytes per element, dropout). Chosen from the compile report for sm_80 and sm_90
# (tests/kernels/compile): large tiles that neither spill nor exceed 163 KiB of shared memory on either; not timed yet.
# In the forward and dQ the query tile must be a multiple of the key tile.
_TILES: Mapping[tuple[int, int, bool], Tiles] = MappingProxyType(
    {
        (64, 2, False): Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2)),
        (64, 2, True): Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(16, 128, 8, 2)),
        (128, 2, False): Tiles(Tile(128, 64, 8, 3), Tile(128, 32, 8, 2), Tile(32, 64, 8, 3)),
        (128, 2, True): Tiles(Tile(128, 32, 8, 3), Tile(64, 64, 8, 2), Tile(16, 64, 8, 2)),
        # fp32 is for debugging: exact products run off the tensor cores, so these tiles only have to fit.
        (64, 4, False): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
        (64, 4, True): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
        (128, 4, False): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
        (128, 4, True): Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
    }
)


@dataclass(frozen=True)
class _Launch:
    """What every launch of one attention call shares: sizes, tiles and the dropout's numbers."""

    batch: int
    length: int
    num_heads: int
    num_kv_heads: int
    width: int
    strides: tuple[int, ...]
    tiles: Tiles
    dropout: AttentionDropout | None

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, dropout: AttentionDropout | None) -> _Launch:
        """Take sizes and strides from the tensors and look the tiles up."""
        batch, length, num_heads, width = query.shape
        bucket = 64 if width <= 64 else 128
        tiles = _TILES[bucket, query.element_size(), dropout is not None]
        # stride(i) of a dim of size 1 may be anything; the kernels multiply it by 0 only.
        strides = tuple(tensor.stride(dim) for tensor in (query, key, value) for dim in (0, 1, 2))
        return cls(batch, length, num_heads, key.shape[2], width, strides, tiles, dropout)

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def score_scale(self) -> float:
        """What makes a dot product a score in units of log2."""
        return self.width**-0.5 * math.log2(math.e)

    @property
    def sizes(self) -> dict[str, int]:
        """Compile-time sizes that all kernels take; `tl.dot` wants at least 16 columns."""
        return {"WIDTH": self.width, "BLOCK_WIDTH": max(16, triton.next_power_of_2(self.width))}

    @property
    def keep_scale(self) -> float:
        """What scales the probabilities that dropout keeps."""
        return 1.0 if self.dropout is None else 1.0 / (1.0 - self.dropout.probability)

    @property
    def random(self) -> tuple[int, int, int]:
        """seed as int64, first head, global heads."""
        if self.dropout is None:
            return 0, 0, self.num_heads
        return signed(self.dropout.seed), self.dropout.first_head, self.dropout.num_heads

    @property
    def drop_below(self) -> int:
        """Threshold of `counter_random.drop_threshold`; 0 compiles dropout away."""
        return 0 if self.dropout is None else drop_threshold(self.dropout.probability)

    def options(self, tile: Tile) -> dict[str, int]:
        """Return the launch options and compile-time constants of a kernel that runs on `tile`."""
        return {
            **self.sizes,
            "GROUP": self.group,
            "BLOCK_QUERY": tile.query,
            "BLOCK_KEY": tile.key,
            "DROP_BELOW": self.drop_below,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        }


def _forward(launch: _Launch, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return output [b, s, n, d] and the base-2 log-sum-exp of the scores, fp32 [b, n, s]."""
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sums = torch.empty((launch.batch, launch.num_heads, launch.length), dtype=torch.float32, device=query.device)
    tile = launch.tiles.forward
    grid = (triton.cdiv(launch.length, tile.query), launch.batch * launch.num_heads)
    kernels.attention_forward_kernel[grid](
        query, key, value, output, log_sums, *launch.strides, launch.length, launch.num_heads,
        launch.score_scale, launch.keep_scale, *launch.random, **launch.options(tile),
    )  # fmt: skip
    return output, log_sums


def _query_grad(launch: _Launch, tensors: tuple[Tensor, ...]) -> Tensor:
    """Return dQ [b, s, n, d]; `tensors` are query, key, value, grad_output, log_sums, deltas."""
    query = tensors[0]
    grad_query = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    tile = launch.tiles.query_grad
    grid = (triton.cdiv(launch.length, tile.query), launch.batch * launch.num_heads)
    kernels.attention_query_grad_kernel[grid](
        *tensors, grad_query, *launch.strides, launch.length, launch.num_heads,
        launch.score_scale, launch.width**-0.5, launch.keep_scale, *launch.random, **launch.options(tile),
    )  # fmt: skip
    return grad_query


def _key_value_grad(launch: _Launch, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return dK and dV [b, s, k, d]; `tensors` as for `_query_grad`."""
    key = tensors[1]
    tile = launch.tiles.key_value_grad
    key_tiles = triton.cdiv(launch.length, tile.key)
    parts = group_parts(launch.group, key_tiles * launch.batch * launch.num_kv_heads)
    # Parts are added up below, so they keep fp32; a single part is the result.
    dtype = key.dtype if parts == 1 else torch.float32
    grad_key = torch.empty((parts, *key.shape), dtype=dtype, device=key.device)
    grad_value = torch.empty((parts, *key.shape), dtype=dtype, device=key.device)
    kernels.attention_key_value_grad_kernel[(key_tiles, launch.batch * launch.num_kv_heads, parts)](
        *tensors, grad_key, grad_value, *launch.strides, launch.length, launch.num_heads,
        launch.score_scale, launch.width**-0.5, launch.keep_scale, *launch.random, launch.batch,
        PARTS=parts, **launch.options(tile),
    )  # fmt: skip
    if parts == 1:
        return grad_key[0], grad_value[0]
    return grad_key.sum(dim=0).to(key.dtype), grad_value.sum(dim=0).to(key.dtype)


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
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, dropout: AttentionDropout | None) -> Tensor:
        output, log_sums = _forward(_Launch.of(query, key, value, dropout), query, key, value)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.dropout = dropout
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, log_sums = ctx.saved_tensors
        launch = _Launch.of(query, key, value, ctx.dropout)
        grad_output = grad_output.contiguous()
        deltas = torch.empty(log_sums.shape, dtype=torch.float32, device=query.device)
        grid = (triton.cdiv(launch.length, 64), launch.batch * launch.num_heads)
        kernels.attention_delta_kernel[grid](
            output, grad_output, deltas, launch.length, launch.num_heads, BLOCK_QUERY=64, **launch.sizes, num_warps=4
        )
        tensors = (query, key, value, grad_output, log_sums, deltas)
        return _query_grad(launch, tensors), *_key_value_grad(launch, tensors), None


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> Tensor:
    """`reference.causal_attention` in Triton, differentiable in query, key and value; O(s) memory.

    Shapes: query [b, s, n, d], key and value [b, s, k, d], n % k == 0, d <= 128, one dtype of bf16, fp16 or fp32, any
    strides; returns [b, s, n, d], contiguous. fp32 is exact but runs off the tensor cores.
    Raises ValueError where shapes, dtypes or the dropout's heads do not fit together, and for `documents` or a
    `window` shorter than s, which these kernels do not have.
    """
    _check(query, key, value, dropout)
    if window is not None and window < query.shape[1]:
        raise ValueError(
            f"the Triton attention has no sliding window yet, asked for {window} keys of {query.shape[1]}; "
            "use kernels = 'torch'"
        )
    if documents is not None:
        raise ValueError("the Triton attention has no document mask yet; use kernels = 'torch'")
    if dropout is not None and dropout.probability == 0.0:
        dropout = None
    query, key, value = (_with_unit_width_stride(tensor) for tensor in (query, key, value))
    return _FlashAttention.apply(query, key, value, dropout)


def _check(query: Tensor, key: Tensor, value: Tensor, dropout: AttentionDropout | None) -> None:
    """Raise ValueError where the arguments do not fit together."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.dim() != 4 or key.dim() != 4 or key.shape != value.shape:
        raise ValueError(f"attention takes query [b, s, n, d] and key, value [b, s, k, d], got {shapes}")
    if query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(f"query, key and value must agree in b, s and d, got {shapes}")
    if query.numel() == 0 or query.shape[2] % key.shape[2] or query.shape[3] > MAX_HEAD_WIDTH:
        raise ValueError(f"needs b, s > 0, n % k == 0 and d <= {MAX_HEAD_WIDTH}, got {shapes}; use kernels = 'torch'")
    if query.shape[0] * query.shape[2] > _MAX_GRID_Y:
        raise ValueError(f"b * n must be at most {_MAX_GRID_Y} (CUDA's grid), got {shapes}; lower the micro-batch")
    dtypes = {query.dtype, key.dtype, value.dtype}
    if len(dtypes) > 1 or query.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"query, key and value must share one of bf16, fp16, fp32, got {sorted(map(str, dtypes))}")
    if dropout is not None:
        check_heads(dropout, query.shape[2])


def _with_unit_width_stride(tensor: Tensor) -> Tensor:
    """Return the tensor itself, or a contiguous copy where its strides are not what the kernels take."""
    fits = tensor.stride(3) == 1 and tensor.stride(1) <= _MAX_ROW_STRIDE
    return tensor if fits else tensor.contiguous()
