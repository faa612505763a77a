"""The Triton kernels of flash attention that hold keys still: dK and dV, and the sum of their parts.

Conventions and source: `flash_attention_kernels.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels.counter_random_kernels import column_keys, keep
from megacode.kernels.flash_attention_tiles import (
    key_spans,
    load_statistics,
    load_tile,
    query_ranges,
    sees,
    store_tile,
)


@triton.jit
def _key_value_grad_tiles(
    grad_key, grad_value, key_tile, value_tile, query_head, grad_head, log_sums, deltas,
    keys_of_rows, columns, spans, keys_of_columns,
    begin, end, gap_at, gap, length, scale,
    QUERY_ROW: tl.constexpr, GRAD_ROW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERY: tl.constexpr, DROP_BELOW: tl.constexpr, MASKED: tl.constexpr, BOUNDED: tl.constexpr,
    INSIDE: tl.constexpr,
):  # fmt: skip
    """Add what the queries begin .. end of one head give to dK / grad_scale and dV / keep_scale of one key tile.

    Tiles are transposed, [keys, queries], so that both products take them as they are. Rows beyond the sequence have
    log_sum = inf, hence probability 0. MASKED leaves out `gap` queries at `gap_at`: both masked ends are one loop,
    which takes fewer registers than two.
    """
    for position in range(begin, end, BLOCK_QUERY):
        first = position
        if MASKED:
            first += tl.where(position < gap_at, 0, gap)
        rows = first + tl.arange(0, BLOCK_QUERY)
        query_tile = load_tile(query_head, first, QUERY_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, INSIDE)
        log_sum = load_statistics(log_sums, rows, length, float("inf"), INSIDE)
        products = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee")
        probabilities = tl.exp2(products * scale - log_sum[None, :])
        if MASKED:
            probabilities = tl.where(sees(rows[None, :], columns[:, None], spans[:, None], BOUNDED), probabilities, 0.0)
        grad_tile = load_tile(grad_head, first, GRAD_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, INSIDE)
        weights = probabilities
        if DROP_BELOW > 0:
            random_keys = load_statistics(keys_of_rows, rows, length, 0, INSIDE).to(tl.uint64, bitcast=True)
            kept = keep(random_keys[None, :], keys_of_columns[:, None], DROP_BELOW)
            # The sign carries the mask on to the second product: a mask of its own would cost registers.
            probabilities = tl.where(kept, probabilities, -probabilities)
            weights = tl.maximum(probabilities, 0.0)
        grad_value = tl.dot(weights.to(grad_tile.dtype), grad_tile, grad_value, input_precision="ieee")
        grad_probabilities = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
        delta = load_statistics(deltas, rows, length, 0.0, INSIDE)
        if DROP_BELOW > 0:
            grad_probabilities = tl.where(probabilities > 0.0, grad_probabilities, 0.0)
            probabilities = tl.abs(probabilities)
        grad_scores = probabilities * (grad_probabilities - delta[None, :])
        grad_key = tl.dot(grad_scores.to(query_tile.dtype), query_tile, grad_key, input_precision="ieee")
    return grad_key, grad_value


@triton.jit
def attention_key_value_grad_kernel(
    query, key, value, ends, grad_output, log_sums, deltas, keys_of_rows, grads,
    query_batch, query_head, key_batch, key_head, value_batch, value_head,
    length, scale, grad_scale, keep_scale, num_batches,
    QUERY_ROW: tl.constexpr, KEY_ROW: tl.constexpr, VALUE_ROW: tl.constexpr, HEADS: tl.constexpr,
    GROUP: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr, WINDOW: tl.constexpr, DROP_BELOW: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of one key-value head per program, summed over a part of its query heads, in order.

    Reads the forward's inputs, ends, one past each position's document, int32 [b, s] or None, grad_output
    [b, s, n, d], log_sums and deltas fp32 [b, n, s] and, with dropout, keys_of_rows, the rows' random keys, int64
    [b, n, s]; writes grads [2, PARTS, b, s, k, d], dK and dV.
    Grid: (b * k * PARTS, key tiles); a part is GROUP // PARTS query heads.
    """
    BOUNDED: tl.constexpr = (WINDOW > 0) or (ends is not None)
    # The first keys are seen by the most queries, so this order starts the longest programs first.
    first = tl.program_id(1) * BLOCK_KEY
    KV_HEADS: tl.constexpr = HEADS // GROUP
    part = tl.program_id(0) % PARTS
    batch = tl.program_id(0) // PARTS // KV_HEADS
    kv_head = tl.program_id(0) // PARTS % KV_HEADS
    kv_head_64 = kv_head.to(tl.int64)
    batch_64 = batch.to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head_64 * key_head
    value_base = value + batch_64 * value_batch + kv_head_64 * value_head
    key_tile = load_tile(key_base, first, KEY_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, EVEN)
    value_tile = load_tile(value_base, first, VALUE_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, EVEN)
    columns = first + tl.arange(0, BLOCK_KEY)
    key_sum = tl.zeros([BLOCK_KEY, BLOCK_WIDTH], dtype=tl.float32)
    value_sum = tl.zeros([BLOCK_KEY, BLOCK_WIDTH], dtype=tl.float32)

    if ends is not None:
        ends += batch_64 * length
    spans = key_spans(columns, ends, length, WINDOW)
    begin, below, whole, end = query_ranges(first, ends, length, WINDOW, BLOCK_QUERY, BLOCK_KEY)
    head = kv_head * GROUP + part * (GROUP // PARTS)
    query += batch_64 * query_batch + tl.cast(head, tl.int64) * query_head
    grad_output += (batch_64 * length * HEADS + head) * WIDTH
    log_sums += (batch_64 * HEADS + head) * length
    deltas += (batch_64 * HEADS + head) * length
    if DROP_BELOW > 0:
        keys_of_rows += (batch_64 * HEADS + head) * length
    keys_of_columns = column_keys(columns)
    for _ in range(GROUP // PARTS):
        key_sum, value_sum = _key_value_grad_tiles(
            key_sum, value_sum, key_tile, value_tile, query, grad_output, log_sums, deltas, keys_of_rows,
            columns, spans, keys_of_columns, begin, end - (whole - below), below, whole - below, length, scale,
            QUERY_ROW, HEADS * WIDTH, WIDTH, BLOCK_WIDTH, BLOCK_QUERY, DROP_BELOW, True, BOUNDED, EVEN,
        )  # fmt: skip
        key_sum, value_sum = _key_value_grad_tiles(
            key_sum, value_sum, key_tile, value_tile, query, grad_output, log_sums, deltas, keys_of_rows,
            columns, spans, keys_of_columns, below, whole, 0, 0, length, scale,
            QUERY_ROW, HEADS * WIDTH, WIDTH, BLOCK_WIDTH, BLOCK_QUERY, DROP_BELOW, False, BOUNDED, EVEN or BOUNDED,
        )  # fmt: skip
        query += query_head
        grad_output += WIDTH
        log_sums += length
        deltas += length
        if DROP_BELOW > 0:
            keys_of_rows += length

    stride = KV_HEADS * WIDTH
    elements = tl.cast(length, tl.int64) * stride
    target = grads + (part.to(tl.int64) * num_batches + batch) * elements + kv_head * WIDTH
    store_tile(target, key_sum * grad_scale, first, stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
    target += elements * num_batches * PARTS
    store_tile(target, value_sum * keep_scale, first, stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)


@triton.jit
def attention_sum_parts_kernel(parts, total, elements, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Add up PARTS tensors in order: reads parts fp32 [2, PARTS, elements], writes total [2, elements] in its dtype.

    Grid: (blocks of elements, 2).
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    source = parts + tl.program_id(1).to(tl.int64) * PARTS * elements + offsets
    result = tl.zeros([BLOCK], dtype=tl.float32)
    for _ in tl.static_range(PARTS):
        result += tl.load(source, mask=inside, other=0.0)
        source += elements
    target = total + tl.program_id(1).to(tl.int64) * elements + offsets
    tl.store(target, result.to(total.dtype.element_ty), mask=inside)
