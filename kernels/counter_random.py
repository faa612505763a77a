"""Random bits as a pure function of (seed, row, column), so that dropout does not depend on who computes it.

A generator with a state gives every rank its own stream, and a mask that changes with the layout. Here the bits of an
element are a hash of a 64-bit seed (folded from step, micro-batch, layer and site) and the element's logical row and
column in the whole, unsharded tensor: whoever holds the element finds the same bits, in the forward, in the backward,
under recomputation, on CPU, on GPU, and inside a Triton kernel (`counter_random_kernels.py` is the same arithmetic).

A row pays for 64 random bits, SplitMix64 used as a counter (Steele, Lea, Flood, OOPSLA 2014; output function Mix13 of
Stafford, "Better Bit Mixing", 2011). An element pays for one xor and one product of 32 bits:

    bits = (lower half of the row's ^ key of the column) * (upper half of the row's | 1)

which is multiply-shift hashing (Dietzfelbinger et al., "A Reliable Randomized Algorithm for the Closest-Pair Problem",
1997) with a multiplier per row. A column's key, c * (A c + B), permutes the integers modulo every power of two (Rivest,
"Permutation polynomials modulo 2^w", 2001), so the keys of near columns differ in their low bits, which the product
carries up.

Limits: the low bits are weak, so compare with a threshold, as dropout does, and take no bits from below. Two rows of
one tensor share a mask with a chance of 2^-63 a pair. Rows of two seeds walk one sequence of 2^64 keys from different
places, so that masks of two tensors of 2^20 rows share rows with a chance of 2^-43. Not for cryptography.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the counter's stride
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB
COLUMN_SQUARE = 0x846CA68A  # A: 2 times an odd number, so that the key permutes
COLUMN_FACTOR = 0x9E3779B9  # B: 2^32 / golden ratio, odd
_MASK_64 = (1 << 64) - 1
_MASK_32 = (1 << 32) - 1


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout on attention probabilities, defined on logical elements rather than on a layout.

    The element (batch, head, q, k) of a rank that holds heads first_head, first_head + 1, ... is in the row
    (batch * num_heads + first_head + head) * s + q and in the column k; batch, q and k count inside this micro-batch.

    probability: chance to drop, in [0, 1).
    seed:        64 bits from `fold_seed`, in [0, 2^64).
    first_head:  global index of the first query head held here.
    num_heads:   query heads of the whole layer, over all ranks.

    Raises ValueError on a value outside these ranges.
    """

    probability: float
    seed: int
    first_head: int
    num_heads: int

    def __post_init__(self) -> None:
        """Refuse values for which the mask or its scale would be undefined."""
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(f"dropout probability must be in [0, 1), got {self.probability}")
        if not 0 <= self.seed <= _MASK_64:
            raise ValueError(f"dropout seed must be in [0, 2^64), got {self.seed}; make it with fold_seed()")
        if not 0 <= self.first_head < self.num_heads:
            raise ValueError(f"first_head must be in [0, num_heads = {self.num_heads}), got {self.first_head}")


@dataclass(frozen=True)
class HiddenDropout:
    """Dropout on hidden states [b, s, h], defined on logical elements rather than on a layout.

    The element (batch, position, column) of a rank that holds positions first_position, first_position + 1, ... of each
    sequence is in the row batch * length + first_position + position and in its column; batch inside this micro-batch.

    probability:    chance to drop, in [0, 1).
    seed:           64 bits from `fold_seed`, in [0, 2^64).
    first_position: position in its sequence of the first token held here.
    length:         tokens of a whole sequence, over all ranks.

    Raises ValueError on a value outside these ranges.
    """

    probability: float
    seed: int
    first_position: int
    length: int

    def __post_init__(self) -> None:
        """Refuse values for which the mask or its scale would be undefined."""
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(f"dropout probability must be in [0, 1), got {self.probability}")
        if not 0 <= self.seed <= _MASK_64:
            raise ValueError(f"dropout seed must be in [0, 2^64), got {self.seed}; make it with fold_seed()")
        if not 0 <= self.first_position < self.length:
            raise ValueError(f"first_position must be in [0, length = {self.length}), got {self.first_position}")


def fold_seed(*parts: int) -> int:
    """Return one 64-bit seed in [0, 2^64) for an ordered list of integers (seed, step, layer, ...).

    Each part is mixed in before the next one, so order and count matter. Pure Python, the same everywhere.
    Raises ValueError where no part is given or one lies outside [0, 2^64).
    """
    if not parts:
        raise ValueError("fold_seed() needs at least one part")
    state = 0
    for part in parts:
        if not 0 <= part <= _MASK_64:
            raise ValueError(f"parts of a seed must be in [0, 2^64), got {part}")
        state = _mix((state ^ part) + GAMMA & _MASK_64)
    return state


def drop_threshold(probability: float) -> int:
    """Return t in [0, 2^32] such that an element is dropped where its 32 random bits are below t.

    Raises ValueError where `probability` is outside [0, 1].
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    return round(probability * (1 << 32))


def signed(value: int) -> int:
    """Return the int64 with the same 64 bits as `value` in [0, 2^64): what torch and Triton take for a seed."""
    return value - (1 << 64) if value >> 63 else value


def row_keys(seed: int, rows: Tensor) -> Tensor:
    """Return 64 random bits per row as int64, for an int64 tensor of logical rows of any shape.

    Raises ValueError where `rows` is not int64.
    """
    if rows.dtype != torch.int64:
        raise ValueError(f"rows must be int64, got {rows.dtype}")
    # int64 arithmetic wraps like uint64; only the right shifts differ and are masked to be logical.
    bits = (rows + 1) * signed(GAMMA) + signed(seed)
    bits = (bits ^ _shift_right(bits, 30)) * signed(MULTIPLIER_1)
    bits = (bits ^ _shift_right(bits, 27)) * signed(MULTIPLIER_2)
    return bits ^ _shift_right(bits, 31)


def column_keys(columns: Tensor) -> Tensor:
    """Return the 32 bits of each column's key as int32, for an int64 tensor of logical columns in [0, 2^32).

    Raises ValueError where `columns` is not int64.
    """
    if columns.dtype != torch.int64:
        raise ValueError(f"columns must be int64, got {columns.dtype}")
    return (columns * (columns * COLUMN_SQUARE + COLUMN_FACTOR)).to(torch.int32)


def random_bits(seed: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return 32 random bits per element as int64 in [0, 2^32); `rows` and `columns`, int64, broadcast.

    Raises ValueError where one of them is not int64.
    """
    return _products(seed, rows, columns, 0).to(torch.int64) & _MASK_32


def keep_mask(seed: int, rows: Tensor, columns: Tensor, probability: float) -> Tensor:
    """Return the dropout mask: bool, True (keep) with chance 1 - probability; `rows` and `columns`, int64, broadcast.

    Raises ValueError where one of them is not int64 or `probability` is outside [0, 1].
    """
    threshold = drop_threshold(probability)
    # An odd product carries a flipped sign through to its own sign, so that int32 compares as uint32 should.
    bits = _products(seed, rows, columns, -(1 << 31))
    return torch.zeros_like(bits, dtype=torch.bool) if threshold > _MASK_32 else bits >= threshold - (1 << 31)


def attention_keep_mask(
    dropout: AttentionDropout,
    batch: int,
    heads: int,
    length: int,
    device: torch.device | str,
    rows: range | None = None,
    keys: range | None = None,
) -> Tensor:
    """Return the mask of attention probabilities for `heads` local heads: bool [batch, heads, rows, keys].

    `rows` and `keys`: the queries and keys wanted, of the `length` there are; all unless given.
    Raises ValueError where the local heads reach beyond dropout.num_heads.
    """
    check_heads(dropout, heads)
    batches = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    global_heads = torch.arange(heads, device=device).view(-1, 1, 1) + dropout.first_head
    queries, columns = (
        torch.arange(some.start, some.stop, device=device) for some in (rows or range(length), keys or range(length))
    )
    row = (batches * dropout.num_heads + global_heads) * length + queries.view(-1, 1)
    return keep_mask(dropout.seed, row, columns, dropout.probability)


def hidden_keep_mask(dropout: HiddenDropout, batch: int, local: int, hidden: int, device: torch.device | str) -> Tensor:
    """Return the mask of hidden states for `local` positions held here: bool [batch, local, hidden].

    Raises ValueError where the local positions reach beyond dropout.length.
    """
    check_positions(dropout, local)
    rows = torch.arange(batch, device=device).view(-1, 1, 1) * dropout.length
    positions = torch.arange(local, device=device).view(-1, 1) + dropout.first_position
    return keep_mask(dropout.seed, rows + positions, torch.arange(hidden, device=device), dropout.probability)


def check_heads(dropout: AttentionDropout, heads: int) -> None:
    """Raise ValueError where `heads` local heads from dropout.first_head on do not fit in dropout.num_heads."""
    if dropout.first_head + heads > dropout.num_heads:
        raise ValueError(
            f"dropout covers {dropout.num_heads} heads, but this rank holds heads {dropout.first_head} to "
            f"{dropout.first_head + heads - 1}; num_heads must be the layer's global count"
        )


def check_positions(dropout: HiddenDropout, local: int) -> None:
    """Raise ValueError where `local` positions from dropout.first_position on do not fit in dropout.length."""
    if dropout.first_position + local > dropout.length:
        raise ValueError(
            f"dropout covers sequences of {dropout.length} tokens, but this rank holds positions "
            f"{dropout.first_position} to {dropout.first_position + local - 1}; length must be that of whole sequences"
        )


def _products(seed: int, rows: Tensor, columns: Tensor, flipped: int) -> Tensor:
    """Return the bits of each element as int32, of keys with the bits `flipped`: two passes over the elements."""
    keys = row_keys(seed, rows)
    bits = (keys.to(torch.int32) ^ flipped) ^ column_keys(columns)
    bits *= (keys >> 32).to(torch.int32) | 1
    return bits


def _mix(value: int) -> int:
    """Return the 64-bit mix of `value` in [0, 2^64): a bijection whose output bits all depend on all input bits."""
    value = (value ^ value >> 30) * MULTIPLIER_1 & _MASK_64
    value = (value ^ value >> 27) * MULTIPLIER_2 & _MASK_64
    return value ^ value >> 31


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
