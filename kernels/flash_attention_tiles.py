"""What the attention kernels share: tiles of rows, who sees whom, and the rows of dropout."""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels.counter_random_kernels import row_keys


@triton.jit
def _tile_mask(first, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Return which elements of rows first .. first + ROWS exist: bool [ROWS, BLOCK_WIDTH] (or [ROWS, 1])."""
    mask = (first + tl.arange(0, ROWS) < length)[:, None]
    if WIDTH != BLOCK_WIDTH:
        mask = mask & (tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :]
    return mask


@triton.jit
def load_tile(
    head, first, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    INSIDE: tl.constexpr,
):  # fmt: skip
    """Read rows first .. first + ROWS of one head, [ROWS, BLOCK_WIDTH]; zeros outside the tensor.

    INSIDE promises that all rows exist, which saves the row mask.
    """
    source = head + tl.cast(first, tl.int64) * stride
    offsets = tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, BLOCK_WIDTH)[None, :]
    if INSIDE:
        if WIDTH == BLOCK_WIDTH:
            tile = tl.load(source + offsets)
        else:
            tile = tl.load(source + offsets, mask=(tl.arange(0, BLOCK_WIDTH) < WIDTH)[None, :], other=0.0)
    else:
        tile = tl.load(source + offsets, mask=_tile_mask(first, length, WIDTH, ROWS, BLOCK_WIDTH), other=0.0)
    return tile


@triton.jit
def store_tile(
    head, tile, first, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr
):  # fmt: skip
    """Write a tile [ROWS, BLOCK_WIDTH] in the tensor's dtype, leaving out what lies outside the tensor."""
    offsets = tl.arange(0, ROWS)[:, None] * stride + tl.arange(0, BLOCK_WIDTH)[None, :]
    mask = _tile_mask(first, length, WIDTH, ROWS, BLOCK_WIDTH)
    target = head + tl.cast(first, tl.int64) * stride + offsets
    tl.store(target, tile.to(head.dtype.element_ty), mask=mask)


@triton.jit
def load_statistics(values, rows, length, other, INSIDE: tl.constexpr):
    """Read one number per row; `other` for rows outside, of which INSIDE promises there are none."""
    return tl.load(values + rows) if INSIDE else tl.load(values + rows, mask=rows < length, other=other)


@triton.jit
def first_seen(rows, starts, length, WINDOW: tl.constexpr):
    """Return the first key that each query sees, int32 of the shape of `rows`; it never falls as rows go up.

    `starts`: where each position's document starts, int32 [s], or None. WINDOW 0 is none. A row beyond the sequence
    counts into the last document.
    """
    low = rows * 0
    if WINDOW > 0:
        low = tl.maximum(rows - (WINDOW - 1), 0)
    if starts is not None:
        low = tl.maximum(low, tl.load(starts + tl.minimum(rows, length - 1)))
    return low


@triton.jit
def seen_until(columns, ends, length, WINDOW: tl.constexpr):
    """Return one past the last query that sees each key, int32 of the shape of `columns`; it never falls either.

    `ends`: one past each position's document, int32 [s], or None. WINDOW 0 is none.
    """
    high = columns * 0 + length
    if WINDOW > 0:
        high = tl.minimum(high, columns + WINDOW)
    if ends is not None:
        high = tl.minimum(high, tl.load(ends + tl.minimum(columns, length - 1)))
    return high


@triton.jit
def query_spans(rows, starts, length, WINDOW: tl.constexpr):
    """Return how many keys each query of a tile sees at most, int32 [rows]: itself and those before it."""
    # No key is negative, so the sequence's start needs no look, and the constant takes no registers.
    return tl.zeros_like(rows) + WINDOW if starts is None else rows - first_seen(rows, starts, length, WINDOW) + 1


@triton.jit
def key_spans(columns, ends, length, WINDOW: tl.constexpr):
    """Return how many queries see each key of a tile at most, int32 [columns]: itself and those after it."""
    # Queries beyond the sequence have probability 0 already.
    return tl.zeros_like(columns) + WINDOW if ends is None else seen_until(columns, ends, length, WINDOW) - columns


@triton.jit
def sees(rows, columns, spans, BOUNDED: tl.constexpr):
    """Return whether queries `rows` see keys `columns`: 0 <= row - column < span, broadcast; BOUNDED False: any span.

    The span is a query's or a key's, whichever is held still. As unsigned numbers both bounds are one comparison.
    """
    if BOUNDED:
        seen = (rows - columns).to(tl.uint32, bitcast=True) < spans.to(tl.uint32, bitcast=True)
    else:
        seen = rows >= columns
    return seen


@triton.jit
def key_ranges(first, starts, length, WINDOW: tl.constexpr, BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr):
    """Return four ends (begin, whole, diagonal, end) of the key blocks that the queries from `first` on walk.

    begin .. whole:     blocks that some of these queries see no longer: masked. Empty without window and documents.
    whole .. diagonal:  blocks that all of them see whole.
    diagonal .. end:    blocks that some of them do not see yet: masked.
    All but `end` are multiples of BLOCK_KEY; blocks before `begin` and from `end` on are seen by none.
    """
    end = tl.minimum(first + BLOCK_QUERY, length)
    diagonal = first // BLOCK_KEY * BLOCK_KEY
    begin = 0
    whole = 0
    if (WINDOW > 0) | (starts is not None):
        begin = first_seen(first, starts, length, WINDOW) // BLOCK_KEY * BLOCK_KEY
        whole = tl.cdiv(first_seen(end - 1, starts, length, WINDOW), BLOCK_KEY) * BLOCK_KEY
        whole = tl.minimum(whole, diagonal)
    return begin, whole, diagonal, end


@triton.jit
def query_ranges(first, ends, length, WINDOW: tl.constexpr, BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr):
    """Return four ends (begin, below, whole, end) of the query blocks that the keys from `first` on are seen by.

    begin .. below:  blocks that do not see some of these keys yet: masked.
    below .. whole:  blocks that see all of them.
    whole .. end:    blocks that see some of them no longer: masked. Empty without window and documents.
    All but `end` are multiples of BLOCK_QUERY, `whole` only with window or documents; no block outside sees a key.
    """
    begin = first // BLOCK_QUERY * BLOCK_QUERY
    below = tl.cdiv(tl.minimum(first + BLOCK_KEY, length), BLOCK_QUERY) * BLOCK_QUERY
    whole = length
    end = length
    if (WINDOW > 0) | (ends is not None):
        whole = seen_until(first, ends, length, WINDOW) // BLOCK_QUERY * BLOCK_QUERY
        whole = tl.maximum(whole, below)
        end = seen_until(tl.minimum(first + BLOCK_KEY, length) - 1, ends, length, WINDOW)
    return begin, below, whole, end


@triton.jit
def dropout_keys(seed, batch, head, rows, length, first_head, global_heads):
    """Return the random keys, uint64, of the query `rows` of a head held here: see `AttentionDropout`."""
    global_head = tl.cast(batch, tl.int64) * global_heads + first_head + head
    return row_keys(seed, global_head * length + rows)
