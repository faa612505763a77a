"""The Triton kernels of flash attention that hold queries still: the forward and dQ. Launches: `flash_attention.py`.

Dao, "FlashAttention-2", 2023, algorithms 1 and 2: scores exist one tile at a time in registers. The forward keeps a
running maximum and sum per query row and saves log2(sum(exp2(scores))); the backward recomputes each tile from it,
once with the queries held still (dQ, here) and once with the keys held still (dK and dV,
`flash_attention_key_value_kernels.py`), so that no atomics are needed.

Common to all: query, key and value have any strides over batch, row and head, and stride 1 over the head width; other
tensors are contiguous. Row starts are int64, offsets inside a tile int32. Scores are in units of log2. Operands of
`tl.dot` stay in the input's dtype (tensor cores), everything else is fp32. A head width that is no power of two is
padded with zeros up to BLOCK_WIDTH. Blocks that no row of a tile sees are skipped, and masks are computed only in
blocks that an edge crosses: the diagonal, the end of the window, or a document's start.

Compile-time sizes: GROUP query heads per key-value head, WIDTH the head's, WINDOW keys (0: no window), DROP_BELOW
`counter_random.drop_threshold` (0: no dropout), EVEN whether the tiles divide the sequence.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels.counter_random_kernels import column_keys, keep
from megacode.kernels.flash_attention_tiles import (
    dropout_keys,
    key_ranges,
    load_statistics,
    load_tile,
    query_spans,
    sees,
    store_tile,
)


@triton.jit
def _forward_tiles(
    accumulator, maximum, total, query_tile, key_head, value_head, rows, spans, random_keys,
    begin, end, gap_at, gap, length, scale,
    KEY_ROW: tl.constexpr, VALUE_ROW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_KEY: tl.constexpr, DROP_BELOW: tl.constexpr, MASKED: tl.constexpr, BOUNDED: tl.constexpr,
    INSIDE: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin .. end into the running softmax of one query tile; returns the three running values.

    MASKED leaves out `gap` keys at `gap_at`: both masked ends are one loop, which takes fewer registers than two.
    """
    for position in range(begin, end, BLOCK_KEY):
        first = position
        if MASKED:
            first += tl.where(position < gap_at, 0, gap)
        columns = first + tl.arange(0, BLOCK_KEY)
        key_tile = load_tile(key_head, first, KEY_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, INSIDE)
        products = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee")
        if MASKED:
            products = tl.where(sees(rows[:, None], columns[None, :], spans[:, None], BOUNDED), products, float("-inf"))
        # The scale is positive, so it commutes with the maximum and joins the subtraction in one instruction.
        new_maximum = tl.maximum(maximum, tl.max(products, axis=1) * scale)
        base = new_maximum
        if MASKED and BOUNDED:
            # A row that has seen no key yet has the maximum -inf, and -inf - -inf is not a number.
            base = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        probabilities = tl.exp2(products * scale - base[:, None])
        shrink = tl.exp2(maximum - base)
        # The softmax is normalized before dropout: the total counts dropped elements too.
        total = total * shrink + tl.sum(probabilities, axis=1)
        if DROP_BELOW > 0:
            kept = keep(random_keys[:, None], column_keys(columns)[None, :], DROP_BELOW)
            probabilities = tl.where(kept, probabilities, 0.0)
        value_tile = load_tile(value_head, first, VALUE_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, INSIDE)
        weights = probabilities.to(value_tile.dtype)
        accumulator = tl.dot(weights, value_tile, accumulator * shrink[:, None], input_precision="ieee")
        maximum = new_maximum
    return accumulator, maximum, total


@triton.jit(do_not_specialize=["seed", "first_head", "global_heads"])
def attention_forward_kernel(
    query, key, value, starts, output, log_sums,
    query_batch, query_head, key_batch, key_head, value_batch, value_head,
    length, scale, keep_scale, seed: tl.int64, first_head, global_heads,
    QUERY_ROW: tl.constexpr, KEY_ROW: tl.constexpr, VALUE_ROW: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr,
    WINDOW: tl.constexpr, DROP_BELOW: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One tile of query rows of one head per program, over all keys that they see.

    Reads query [b, s, n, d], key and value [b, s, k, d] (strides given) and starts, where each position's document
    starts, int32 [b, s] or None; writes output [b, s, n, d] and log_sums fp32 [b, n, s]. Grid: (b * n, query tiles).
    """
    BOUNDED: tl.constexpr = (WINDOW > 0) or (starts is not None)
    # The longest rows of all heads start first, so that the short ones fill the gaps at the end.
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_QUERY
    batch = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    batch_64 = batch.to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head * key_head
    value_base = value + batch_64 * value_batch + kv_head * value_head
    query_base = query + batch_64 * query_batch + head.to(tl.int64) * query_head
    query_tile = load_tile(query_base, first, QUERY_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, EVEN)

    rows = first + tl.arange(0, BLOCK_QUERY)
    if starts is not None:
        starts += batch_64 * length
    spans = query_spans(rows, starts, length, WINDOW)
    begin, whole, diagonal, end = key_ranges(first, starts, length, WINDOW, BLOCK_QUERY, BLOCK_KEY)
    random_keys = dropout_keys(seed, batch, head, rows, length, first_head, global_heads)
    accumulator = tl.zeros([BLOCK_QUERY, BLOCK_WIDTH], dtype=tl.float32)
    maximum = tl.full([BLOCK_QUERY], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_QUERY], dtype=tl.float32)
    accumulator, maximum, total = _forward_tiles(
        accumulator, maximum, total, query_tile, key_base, value_base, rows, spans, random_keys,
        begin, end - (diagonal - whole), whole, diagonal - whole, length, scale,
        KEY_ROW, VALUE_ROW, WIDTH, BLOCK_WIDTH, BLOCK_KEY, DROP_BELOW, True, BOUNDED, EVEN,
    )  # fmt: skip
    accumulator, maximum, total = _forward_tiles(
        accumulator, maximum, total, query_tile, key_base, value_base, rows, spans, random_keys,
        whole, diagonal, 0, 0, length, scale,
        KEY_ROW, VALUE_ROW, WIDTH, BLOCK_WIDTH, BLOCK_KEY, DROP_BELOW, False, BOUNDED, True,
    )  # fmt: skip

    log_sum = maximum + tl.log2(total)
    accumulator = accumulator * (keep_scale / total)[:, None]
    output_base = output + (batch_64 * length * HEADS + head) * WIDTH
    store_tile(output_base, accumulator, first, HEADS * WIDTH, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
    tl.store(log_sums + tl.program_id(0).to(tl.int64) * length + rows, log_sum, mask=rows < length)


@triton.jit
def _query_grad_tiles(
    grad, query_tile, grad_tile, key_head, value_head, rows, spans, log_sum, delta, random_keys,
    begin, end, gap_at, gap, length, scale,
    KEY_ROW: tl.constexpr, VALUE_ROW: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_KEY: tl.constexpr, DROP_BELOW: tl.constexpr, MASKED: tl.constexpr, BOUNDED: tl.constexpr,
    INSIDE: tl.constexpr,
):  # fmt: skip
    """Add what the keys begin .. end give to dQ / grad_scale of one query tile; returns the sum.

    MASKED leaves out `gap` keys at `gap_at`.
    """
    for position in range(begin, end, BLOCK_KEY):
        first = position
        if MASKED:
            first += tl.where(position < gap_at, 0, gap)
        columns = first + tl.arange(0, BLOCK_KEY)
        key_tile = load_tile(key_head, first, KEY_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, INSIDE)
        value_tile = load_tile(value_head, first, VALUE_ROW, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH, INSIDE)
        products = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee")
        probabilities = tl.exp2(products * scale - log_sum[:, None])
        if MASKED:
            probabilities = tl.where(sees(rows[:, None], columns[None, :], spans[:, None], BOUNDED), probabilities, 0.0)
        grad_probabilities = tl.dot(grad_tile, tl.trans(value_tile), input_precision="ieee")
        if DROP_BELOW > 0:
            kept = keep(random_keys[:, None], column_keys(columns)[None, :], DROP_BELOW)
            grad_probabilities = tl.where(kept, grad_probabilities, 0.0)
        grad_scores = probabilities * (grad_probabilities - delta[:, None])
        grad = tl.dot(grad_scores.to(key_tile.dtype), key_tile, grad, input_precision="ieee")
    return grad


@triton.jit(do_not_specialize=["seed", "first_head", "global_heads"])
def attention_query_grad_kernel(
    query, key, value, starts, output, grad_output, log_sums, deltas, keys_of_rows, grad_query,
    query_batch, query_head, key_batch, key_head, value_batch, value_head,
    length, scale, grad_scale, keep_scale, seed: tl.int64, first_head, global_heads,
    QUERY_ROW: tl.constexpr, KEY_ROW: tl.constexpr, VALUE_ROW: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr,
    WINDOW: tl.constexpr, DROP_BELOW: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of query rows of one head per program, over all keys that they see; and the rows' deltas.

    Reads the forward's inputs, its output and grad_output [b, s, n, d] and log_sums fp32 [b, n, s]; writes grad_query
    [b, s, n, d] and, for the other kernel, deltas fp32 [b, n, s] = sum over d of output * grad_output / keep_scale:
    what the softmax's gradient subtracts from every element of a row; and with dropout the rows' random keys, int64
    [b, n, s], which that kernel would draw again for every tile of keys. With dropout, keep_scale is a factor of the
    whole gradient of the scores, so it is left to grad_scale. Grid: (b * n, query tiles).
    """
    BOUNDED: tl.constexpr = (WINDOW > 0) or (starts is not None)
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_QUERY
    batch = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    batch_64 = batch.to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head * key_head
    value_base = value + batch_64 * value_batch + kv_head * value_head
    query_base = query + batch_64 * query_batch + head.to(tl.int64) * query_head
    output_base = (batch_64 * length * HEADS + head) * WIDTH
    OUTPUT_ROW: tl.constexpr = HEADS * WIDTH
    output_tile = load_tile(output + output_base, first, OUTPUT_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, EVEN)
    grad_tile = load_tile(grad_output + output_base, first, OUTPUT_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, EVEN)
    rows = first + tl.arange(0, BLOCK_QUERY)
    statistics = tl.program_id(0).to(tl.int64) * length
    delta = tl.sum(output_tile.to(tl.float32) * grad_tile.to(tl.float32), axis=1) / keep_scale
    tl.store(deltas + statistics + rows, delta, mask=rows < length)

    query_tile = load_tile(query_base, first, QUERY_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH, EVEN)
    log_sum = load_statistics(log_sums + statistics, rows, length, float("inf"), EVEN)
    if starts is not None:
        starts += batch_64 * length
    spans = query_spans(rows, starts, length, WINDOW)
    begin, whole, diagonal, end = key_ranges(first, starts, length, WINDOW, BLOCK_QUERY, BLOCK_KEY)
    random_keys = dropout_keys(seed, batch, head, rows, length, first_head, global_heads)
    if DROP_BELOW > 0:
        tl.store(keys_of_rows + statistics + rows, random_keys.to(tl.int64, bitcast=True), mask=rows < length)
    grad = tl.zeros([BLOCK_QUERY, BLOCK_WIDTH], dtype=tl.float32)
    grad = _query_grad_tiles(
        grad, query_tile, grad_tile, key_base, value_base, rows, spans, log_sum, delta, random_keys,
        begin, end - (diagonal - whole), whole, diagonal - whole, length, scale,
        KEY_ROW, VALUE_ROW, WIDTH, BLOCK_WIDTH, BLOCK_KEY, DROP_BELOW, True, BOUNDED, EVEN,
    )  # fmt: skip
    grad = _query_grad_tiles(
        grad, query_tile, grad_tile, key_base, value_base, rows, spans, log_sum, delta, random_keys,
        whole, diagonal, 0, 0, length, scale,
        KEY_ROW, VALUE_ROW, WIDTH, BLOCK_WIDTH, BLOCK_KEY, DROP_BELOW, False, BOUNDED, True,
    )  # fmt: skip
    target = grad_query + output_base
    store_tile(target, grad * grad_scale, first, OUTPUT_ROW, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
