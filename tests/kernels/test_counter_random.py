"""Random numbers by counter: the same for the same (seed, index), fair, and different for anything else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.kernels.counter_random import (
    AttentionDropout,
    attention_keep_mask,
    drop_threshold,
    fold_seed,
    keep_mask,
    random_bits,
    signed,
)

UINT64 = st.integers(0, 2**64 - 1)


def splitmix64(seed: int, index: int) -> int:
    """Output number `index` of the published generator, written with Python's unbounded integers."""
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_published_values() -> None:
    # The first outputs of SplitMix64 for seed 1234567, as listed in the generator's public test vectors.
    assert [splitmix64(1234567, index) for index in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@settings(deadline=None)
@given(seed=UINT64, index=st.integers(0, 2**63 - 2))
def test_bits_are_the_upper_half_of_splitmix64(seed: int, index: int) -> None:
    assert random_bits(seed, torch.tensor([index])).item() == splitmix64(seed, index) >> 32


def test_bits_are_golden() -> None:
    # A change here changes every run's dropout: it must be a decision, never an accident.
    seed = fold_seed(1234, 100, 3, 7, 0)
    assert seed == 6876384955036865023
    assert random_bits(seed, torch.arange(4)).tolist() == [2165759597, 3854321170, 3848632551, 4059455295]


def test_bits_do_not_depend_on_shape_or_slicing() -> None:
    index = torch.arange(6 * 7 * 8).view(6, 7, 8)
    whole = random_bits(5, index)
    assert torch.equal(random_bits(5, index[2:4, :, 3:]), whole[2:4, :, 3:])


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_keeps_with_the_complement_of_the_probability(probability: float) -> None:
    count = 200_000
    kept = keep_mask(fold_seed(1), torch.arange(count), probability).double().mean().item()
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(kept - (1 - probability)) <= 4 * deviation


def test_bits_are_uniform_and_neighbours_unrelated() -> None:
    bits = random_bits(fold_seed(2), torch.arange(1 << 16))
    for bit in range(32):
        ones = (bits >> bit & 1).double().mean().item()
        assert abs(ones - 0.5) < 4 * 0.5 / 2**8
    values = bits.double() / 2**32 - 0.5
    for lag in (1, 64, 8192):  # neighbours in a row, in a tile, in a column of scores
        correlation = (values[:-lag] * values[lag:]).mean().item() * 12
        assert abs(correlation) < 4 / (len(values) - lag) ** 0.5


def test_masks_of_neighbouring_sites_are_independent() -> None:
    index = torch.arange(1 << 16)
    first = keep_mask(fold_seed(1, 10, 0, 3), index, 0.5)
    for other in ((2, 10, 0, 3), (1, 11, 0, 3), (1, 10, 1, 3), (1, 10, 0, 4)):
        agreement = (keep_mask(fold_seed(*other), index, 0.5) == first).double().mean().item()
        assert abs(agreement - 0.5) < 4 * 0.5 / 2**8


@given(parts=st.lists(UINT64, min_size=1, max_size=6), position=st.integers(0, 5), value=UINT64)
def test_fold_seed_tells_every_part_and_place(parts: list[int], position: int, value: int) -> None:
    seed = fold_seed(*parts)
    assert 0 <= seed < 2**64
    assert seed == fold_seed(*parts)
    assert seed != fold_seed(*parts, 0)
    changed = list(parts)
    changed[position % len(parts)] = value
    assert (fold_seed(*changed) == seed) == (changed == parts)


def test_fold_seed_depends_on_order() -> None:
    assert fold_seed(1, 2) != fold_seed(2, 1)


def test_two_halves_of_the_heads_are_the_whole() -> None:
    whole = attention_keep_mask(AttentionDropout(0.4, 99, 0, 6), 2, 6, 16, "cpu")
    halves = [attention_keep_mask(AttentionDropout(0.4, 99, first, 6), 2, 3, 16, "cpu") for first in (0, 3)]
    assert torch.equal(torch.cat(halves, dim=1), whole)
    assert len({tuple(head.flatten().tolist()) for head in whole.flatten(0, 1)}) == 12  # no two heads share a mask


def test_logical_element_is_the_documented_one() -> None:
    dropout = AttentionDropout(0.4, 99, 2, 6)
    mask = attention_keep_mask(dropout, 2, 3, 16, "cpu")
    batch, head, row, column = 1, 2, 5, 11
    index = ((batch * 6 + 2 + head) * 16 + row) * 16 + column
    assert mask.shape == (2, 3, 16, 16)
    assert mask[batch, head, row, column] == keep_mask(99, torch.tensor(index), 0.4)
    rows = torch.arange(16 * 16).view(16, 16) + (1 * 6 + 4) * 256
    assert torch.equal(mask[1, 2], keep_mask(99, rows, 0.4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0, 0, 4), "probability must be in"),
        ((-0.1, 0, 0, 4), "probability must be in"),
        ((0.1, 2**64, 0, 4), "make it with fold_seed"),
        ((0.1, 0, 4, 4), "first_head must be in"),
    ],
)
def test_attention_dropout_refuses_by_rule(arguments: tuple[float, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionDropout(*arguments)


def test_borders_refuse_by_rule() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        fold_seed()
    with pytest.raises(ValueError, match="got -1"):
        fold_seed(1, -1)
    with pytest.raises(ValueError, match="int64"):
        random_bits(1, torch.arange(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="heads 3 to 6"):
        attention_keep_mask(AttentionDropout(0.1, 1, 3, 6), 1, 4, 2, "cpu")
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        drop_threshold(1.5)


def test_signed_keeps_the_bits() -> None:
    assert [signed(value) for value in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [0, 2**63 - 1, -(2**63), -1]
