"""The Triton kernels of causal flash attention; `flash_attention.py` launches them.

Dao, "FlashAttention-2", 2023, algorithms 1 and 2: scores exist one tile at a time in registers. The forward keeps a
running maximum and sum per query row and saves log2(sum(exp2(scores))); the backward recomputes each tile from it,
once with the keys held still (dK, dV) and once with the queries held still (dQ), so that no atomics are needed.

Common to all: query, key and value have any strides over batch, row and head, and stride 1 over the head width; other
tensors are contiguous. Row starts are int64, offsets inside a tile int32. Scores are in units of log2. Operands of
`tl.dot` stay in the input's dtype (tensor cores), everything else is fp32. A head width that is no power of two is
padded with zeros up to BLOCK_WIDTH. Masks below the diagonal are skipped: only the last tiles of a row compute them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megacode.kernels.counter_random_kernels import counter_step, keep
from megacode.kernels.flash_attention_tiles import head_counter, load_tile, row_counters, store_tile


@triton.jit
def _forward_tiles(
    accumulator, maximum, total, query_tile, key_head, value_head, key_stride, value_stride, rows, counters,
    begin, end, length, scale,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_KEY: tl.constexpr, MASKED: tl.constexpr,
    DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin .. end into the running softmax of one query tile; returns the three running values."""
    for first in range(begin, end, BLOCK_KEY):
        columns = first + tl.arange(0, BLOCK_KEY)
        key_tile = load_tile(key_head, first, key_stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
        scores = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(rows[:, None] >= columns[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        probabilities = tl.exp2(scores - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        # The softmax is normalized before dropout: the total counts dropped elements too.
        total = total * shrink + tl.sum(probabilities, axis=1)
        if DROP_BELOW > 0:
            kept = keep(counters[:, None] + counter_step(columns)[None, :], DROP_BELOW)
            probabilities = tl.where(kept, probabilities, 0.0)
        value_tile = load_tile(value_head, first, value_stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
        weights = probabilities.to(value_tile.dtype)
        accumulator = tl.dot(weights, value_tile, accumulator * shrink[:, None], input_precision="ieee")
        maximum = new_maximum
    return accumulator, maximum, total


@triton.jit(do_not_specialize=["seed", "first_head", "global_heads"])
def attention_forward_kernel(
    query, key, value, output, log_sums,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    length, num_heads, scale, keep_scale, seed: tl.int64, first_head, global_heads,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """One tile of query rows of one head per program, over all earlier keys.

    Reads query [b, s, n, d], key and value [b, s, k, d] (strides given); writes output [b, s, n, d] and
    log_sums fp32 [b, n, s]. Grid: (query tiles, b * n).
    """
    # The longest rows start first, so that the short ones fill the gaps at the end.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_QUERY
    batch = tl.program_id(1) // num_heads
    head = tl.program_id(1) % num_heads
    batch_64 = batch.to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head * key_head
    value_base = value + batch_64 * value_batch + kv_head * value_head
    query_base = query + batch_64 * query_batch + head.to(tl.int64) * query_head
    query_tile = load_tile(query_base, first, query_row, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)

    rows = first + tl.arange(0, BLOCK_QUERY)
    first_counter = head_counter(seed, batch, head, length, first_head, global_heads)
    counters = row_counters(first_counter, rows, length)
    accumulator = tl.zeros([BLOCK_QUERY, BLOCK_WIDTH], dtype=tl.float32)
    maximum = tl.full([BLOCK_QUERY], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_QUERY], dtype=tl.float32)
    accumulator, maximum, total = _forward_tiles(
        accumulator, maximum, total, query_tile, key_base, value_base, key_row, value_row, rows, counters,
        0, first, length, scale, WIDTH, BLOCK_WIDTH, BLOCK_KEY, False, DROP_BELOW,
    )  # fmt: skip
    accumulator, maximum, total = _forward_tiles(
        accumulator, maximum, total, query_tile, key_base, value_base, key_row, value_row, rows, counters,
        first, tl.minimum(first + BLOCK_QUERY, length), length, scale, WIDTH, BLOCK_WIDTH, BLOCK_KEY, True, DROP_BELOW,
    )  # fmt: skip

    log_sum = maximum + tl.log2(total)
    accumulator = accumulator * (keep_scale / total)[:, None]
    output_base = output + (batch_64 * length * num_heads + head) * WIDTH
    store_tile(output_base, accumulator, first, num_heads * WIDTH, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
    tl.store(log_sums + tl.program_id(1).to(tl.int64) * length + rows, log_sum, mask=rows < length)


@triton.jit
def attention_delta_kernel(
    output, grad_output, deltas, length, num_heads,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_QUERY: tl.constexpr,
):  # fmt: skip
    """Write deltas fp32 [b, n, s] = sum over d of output * grad_output, both [b, s, n, d]. Grid: (query tiles, b * n).

    It is what the softmax's gradient subtracts from every element of a row, with dropout or without.
    """
    first = tl.program_id(0) * BLOCK_QUERY
    base = ((tl.program_id(1) // num_heads).to(tl.int64) * length * num_heads + tl.program_id(1) % num_heads) * WIDTH
    stride = num_heads * WIDTH
    output_tile = load_tile(output + base, first, stride, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH).to(tl.float32)
    grad_tile = load_tile(grad_output + base, first, stride, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH).to(tl.float32)
    rows = first + tl.arange(0, BLOCK_QUERY)
    delta = tl.sum(output_tile * grad_tile, axis=1)
    tl.store(deltas + tl.program_id(1).to(tl.int64) * length + rows, delta, mask=rows < length)


@triton.jit
def _query_grad_tiles(
    grad, query_tile, grad_tile, key_head, value_head, key_stride, value_stride, rows, log_sum, delta, counters,
    begin, end, length, scale, keep_scale,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_KEY: tl.constexpr, MASKED: tl.constexpr,
    DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Add what the keys begin .. end give to dQ / (score scale) of one query tile; returns the sum."""
    for first in range(begin, end, BLOCK_KEY):
        columns = first + tl.arange(0, BLOCK_KEY)
        key_tile = load_tile(key_head, first, key_stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
        value_tile = load_tile(value_head, first, value_stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
        scores = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(rows[:, None] >= columns[None, :], scores, float("-inf"))
        probabilities = tl.exp2(scores - log_sum[:, None])
        grad_probabilities = tl.dot(grad_tile, tl.trans(value_tile), input_precision="ieee")
        if DROP_BELOW > 0:
            kept = keep(counters[:, None] + counter_step(columns)[None, :], DROP_BELOW)
            grad_probabilities = tl.where(kept, grad_probabilities * keep_scale, 0.0)
        grad_scores = probabilities * (grad_probabilities - delta[:, None])
        grad = tl.dot(grad_scores.to(key_tile.dtype), key_tile, grad, input_precision="ieee")
    return grad


@triton.jit(do_not_specialize=["seed", "first_head", "global_heads"])
def attention_query_grad_kernel(
    query, key, value, grad_output, log_sums, deltas, grad_query,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    length, num_heads, scale, grad_scale, keep_scale, seed: tl.int64, first_head, global_heads,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of query rows of one head per program, over all earlier keys.

    Reads the forward's inputs, grad_output [b, s, n, d], log_sums and deltas fp32 [b, n, s];
    writes grad_query [b, s, n, d]. Grid: (query tiles, b * n).
    """
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_QUERY
    batch = tl.program_id(1) // num_heads
    head = tl.program_id(1) % num_heads
    batch_64 = batch.to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head * key_head
    value_base = value + batch_64 * value_batch + kv_head * value_head
    query_base = query + batch_64 * query_batch + head.to(tl.int64) * query_head
    output_base = (batch_64 * length * num_heads + head) * WIDTH
    output_row = num_heads * WIDTH
    query_tile = load_tile(query_base, first, query_row, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
    grad_tile = load_tile(grad_output + output_base, first, output_row, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
    rows = first + tl.arange(0, BLOCK_QUERY)
    statistics = tl.program_id(1).to(tl.int64) * length + rows
    log_sum = tl.load(log_sums + statistics, mask=rows < length, other=float("inf"))
    delta = tl.load(deltas + statistics, mask=rows < length, other=0.0)
    first_counter = head_counter(seed, batch, head, length, first_head, global_heads)
    counters = row_counters(first_counter, rows, length)

    grad = tl.zeros([BLOCK_QUERY, BLOCK_WIDTH], dtype=tl.float32)
    grad = _query_grad_tiles(
        grad, query_tile, grad_tile, key_base, value_base, key_row, value_row, rows, log_sum, delta, counters,
        0, first, length, scale, keep_scale, WIDTH, BLOCK_WIDTH, BLOCK_KEY, False, DROP_BELOW,
    )  # fmt: skip
    grad = _query_grad_tiles(
        grad, query_tile, grad_tile, key_base, value_base, key_row, value_row, rows, log_sum, delta, counters,
        first, tl.minimum(first + BLOCK_QUERY, length), length, scale, keep_scale,
        WIDTH, BLOCK_WIDTH, BLOCK_KEY, True, DROP_BELOW,
    )  # fmt: skip
    target = grad_query + output_base
    store_tile(target, grad * grad_scale, first, output_row, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)


@triton.jit
def _key_value_grad_tiles(
    grad_key, grad_value, key_tile, value_tile, query_head, grad_head, query_stride, grad_stride, log_sums, deltas,
    columns, first_counter, begin, end, length, scale, keep_scale,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_QUERY: tl.constexpr, MASKED: tl.constexpr,
    DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """Add what the queries begin .. end of one head give to dK / (score scale) and dV / (keep scale) of one key tile.

    Tiles are transposed, [keys, queries], so that both products take them as they are. Rows beyond the sequence have
    log_sum = inf, hence probability 0.
    """
    for first in range(begin, end, BLOCK_QUERY):
        rows = first + tl.arange(0, BLOCK_QUERY)
        query_tile = load_tile(query_head, first, query_stride, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
        log_sum = tl.load(log_sums + rows, mask=rows < length, other=float("inf"))
        scores = tl.dot(key_tile, tl.trans(query_tile), input_precision="ieee") * scale
        if MASKED:
            scores = tl.where(rows[None, :] >= columns[:, None], scores, float("-inf"))
        probabilities = tl.exp2(scores - log_sum[None, :])
        grad_tile = load_tile(grad_head, first, grad_stride, length, WIDTH, BLOCK_QUERY, BLOCK_WIDTH)
        grad_probabilities = tl.dot(value_tile, tl.trans(grad_tile), input_precision="ieee")
        weights = probabilities
        if DROP_BELOW > 0:
            counters = row_counters(first_counter, rows, length)
            kept = keep(counters[None, :] + counter_step(columns)[:, None], DROP_BELOW)
            weights = tl.where(kept, probabilities, 0.0)
            grad_probabilities = tl.where(kept, grad_probabilities * keep_scale, 0.0)
        grad_value = tl.dot(weights.to(grad_tile.dtype), grad_tile, grad_value, input_precision="ieee")
        delta = tl.load(deltas + rows, mask=rows < length, other=0.0)
        grad_scores = probabilities * (grad_probabilities - delta[None, :])
        grad_key = tl.dot(grad_scores.to(query_tile.dtype), query_tile, grad_key, input_precision="ieee")
    return grad_key, grad_value


@triton.jit(do_not_specialize=["seed", "first_head", "global_heads"])
def attention_key_value_grad_kernel(
    query, key, value, grad_output, log_sums, deltas, grad_key, grad_value,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    length, num_heads, scale, grad_scale, keep_scale, seed: tl.int64, first_head, global_heads, num_batches,
    GROUP: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_QUERY: tl.constexpr, BLOCK_KEY: tl.constexpr, DROP_BELOW: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of one key-value head per program, summed over a part of its query heads, in order.

    Reads the forward's inputs, grad_output [b, s, n, d], log_sums and deltas fp32 [b, n, s]; writes grad_key and
    grad_value [PARTS, b, s, k, d]. Grid: (key tiles, b * k, PARTS); a part is GROUP // PARTS query heads.
    """
    # The first keys are seen by the most queries, so this order starts the longest programs first.
    first = tl.program_id(0) * BLOCK_KEY
    num_kv_heads = num_heads // GROUP
    batch = tl.program_id(1) // num_kv_heads
    kv_head = (tl.program_id(1) % num_kv_heads).to(tl.int64)
    batch_64 = batch.to(tl.int64)
    key_base = key + batch_64 * key_batch + kv_head * key_head
    value_base = value + batch_64 * value_batch + kv_head * value_head
    key_tile = load_tile(key_base, first, key_row, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
    value_tile = load_tile(value_base, first, value_row, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
    columns = first + tl.arange(0, BLOCK_KEY)
    key_sum = tl.zeros([BLOCK_KEY, BLOCK_WIDTH], dtype=tl.float32)
    value_sum = tl.zeros([BLOCK_KEY, BLOCK_WIDTH], dtype=tl.float32)

    diagonal = first // BLOCK_QUERY * BLOCK_QUERY
    below = tl.minimum(tl.cdiv(first + BLOCK_KEY, BLOCK_QUERY) * BLOCK_QUERY, length)
    first_member = kv_head * GROUP + tl.program_id(2) * (GROUP // PARTS)
    for head in range(first_member, first_member + GROUP // PARTS):
        query_base = query + batch_64 * query_batch + head * query_head
        grad_base = grad_output + (batch_64 * length * num_heads + head) * WIDTH
        statistics = (batch_64 * num_heads + head) * length
        first_counter = head_counter(seed, batch, head, length, first_head, global_heads)
        key_sum, value_sum = _key_value_grad_tiles(
            key_sum, value_sum, key_tile, value_tile, query_base, grad_base, query_row, num_heads * WIDTH,
            log_sums + statistics, deltas + statistics, columns, first_counter,
            diagonal, below, length, scale, keep_scale, WIDTH, BLOCK_WIDTH, BLOCK_QUERY, True, DROP_BELOW,
        )  # fmt: skip
        key_sum, value_sum = _key_value_grad_tiles(
            key_sum, value_sum, key_tile, value_tile, query_base, grad_base, query_row, num_heads * WIDTH,
            log_sums + statistics, deltas + statistics, columns, first_counter,
            below, length, length, scale, keep_scale, WIDTH, BLOCK_WIDTH, BLOCK_QUERY, False, DROP_BELOW,
        )  # fmt: skip

    target_batch = tl.program_id(2).to(tl.int64) * num_batches + batch
    target = (target_batch * length * num_kv_heads + kv_head) * WIDTH
    stride = num_kv_heads * WIDTH
    store_tile(grad_key + target, key_sum * grad_scale, first, stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
    store_tile(grad_value + target, value_sum * keep_scale, first, stride, length, WIDTH, BLOCK_KEY, BLOCK_WIDTH)
