"""Random numbers by counter: the same for the same (seed, row, column), fair, and different for anything else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megacode.kernels.counter_random import (
    AttentionDropout,
    HiddenDropout,
    attention_keep_mask,
    column_keys,
    drop_threshold,
    fold_seed,
    hidden_keep_mask,
    keep_mask,
    random_bits,
    row_keys,
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


def bits_of(seed: int, row: int, column: int) -> int:
    """The bits of one element as the module's docstring defines them, with Python's unbounded integers."""
    key = splitmix64(seed, row)
    of_column = column * (0x846CA68A * column + 0x9E3779B9) % 2**32
    return (key % 2**32 ^ of_column) * (key >> 32 | 1) % 2**32


@settings(deadline=None)
@given(seed=UINT64, row=st.integers(0, 2**63 - 2), column=st.integers(0, 2**32 - 1))
def test_bits_are_the_defined_ones(seed: int, row: int, column: int) -> None:
    rows, columns = torch.tensor([row]), torch.tensor([column])
    assert row_keys(seed, rows).item() == signed(splitmix64(seed, row))
    assert random_bits(seed, rows, columns).item() == bits_of(seed, row, column)


def test_bits_are_golden() -> None:
    # A change here changes every run's dropout: it must be a decision, never an accident.
    seed = fold_seed(1234, 100, 3, 7, 0)
    assert seed == 6876384955036865023
    assert random_bits(seed, torch.tensor([[0], [2**40]]), torch.arange(3)).tolist() == [
        [190413496, 2264355135, 2551525338],
        [2848516410, 2147769291, 1534994884],
    ]


def test_bits_do_not_depend_on_shape_slicing_or_order() -> None:
    rows, columns = torch.arange(60).view(3, 20, 1), torch.arange(100)
    whole = random_bits(5, rows, columns)
    assert torch.equal(random_bits(5, rows[1:, 4:9], columns[30:]), whole[1:, 4:9, 30:])
    order = torch.randperm(100)
    assert torch.equal(random_bits(5, rows, columns[order]), whole[..., order])
    assert torch.equal(random_bits(5, rows.flatten().repeat_interleave(100), columns.repeat(60)), whole.flatten())


@pytest.mark.parametrize("probability", [0.0, 2**-32, 0.1, 0.5, 0.9, 1 - 2**-32, 1.0])
def test_mask_compares_bits_with_the_threshold(probability: float) -> None:
    rows, columns = torch.arange(50)[:, None], torch.arange(400)
    expected = random_bits(3, rows, columns) >= drop_threshold(probability)
    assert torch.equal(keep_mask(3, rows, columns, probability), expected)


def test_keys_of_columns_differ_in_their_low_bits() -> None:
    # Keys equal but for high bits would tie two columns together in every row; 2^k columns differ in the low k bits.
    for first in (0, 12345, 2**32 - 2**18):
        keys = column_keys(torch.arange(first, first + 2**18))
        assert len((keys & 2**18 - 1).unique()) == 2**18


def standardized(seed: int, rows: Tensor, columns: Tensor, probability: float) -> Tensor:
    """What is dropped, as numbers of mean 0 and variance 1, fp32 [rows, columns]."""
    dropped = ~keep_mask(seed, rows[:, None], columns, probability)
    return (dropped.float() - probability) / (probability * (1 - probability)) ** 0.5


# A normal deviate passes 6 with a chance of 2e-9: no test below fails by chance, and seeds are fixed besides.
@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize("first", [(0, 0), (2**33, 100_000)])
def test_rows_and_columns_are_fair_and_unrelated(probability: float, first: tuple[int, int]) -> None:
    count = 2048
    rows, columns = torch.arange(first[0], first[0] + count), torch.arange(first[1], first[1] + count)
    deviates = standardized(fold_seed(2), rows, columns, probability)
    others = torch.triu_indices(count, count, 1)
    for by_row in (deviates, deviates.mT):
        sums = by_row.sum(dim=1) / count**0.5
        assert sums.abs().max() < 6
        assert abs(sums.square().mean() - 1) < 6 * (2 / count) ** 0.5  # chi-square, both sides: not too even either
        products = (by_row @ by_row.mT / count**0.5)[others[0], others[1]]  # of each pair of rows, of each of columns
        assert products.abs().max() < (7.5 if probability == 0.1 else 6.5)  # of 2 million; sums of few drops are skewed
        assert abs(products.square().mean() - 1) < 0.02
        assert abs(products.mean()) < 6 / products.numel() ** 0.5


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_no_distance_along_rows_correlates(probability: float) -> None:
    rows, length = torch.arange(512), 4096
    deviates = standardized(fold_seed(8), rows, torch.arange(length), probability)
    # For one element and for neighbours together, what lies any distance further on, around the row's end.
    for values in (deviates, deviates * deviates.roll(1, dims=1)):
        spectrum = torch.fft.rfft(values).abs().square()
        lags = torch.fft.irfft(spectrum)[:, 2 : length // 2] / length**0.5
        assert lags.sum(dim=0).abs().max() < 6 * len(rows) ** 0.5
        # Within single rows too: the multiplier is a row's own, so a bad one would hide in the mean over rows.
        assert abs(lags.square().mean() - 1) < 0.15
        assert lags.square().mean(dim=0).max() < 3


def test_heads_batches_and_seeds_are_unrelated() -> None:
    count = 1 << 16
    masks = [attention_keep_mask(AttentionDropout(0.5, fold_seed(1), 0, 4), 2, 4, 256, "cpu").flatten(0, 1)]
    for parts in ((2,), (1, 0), (0, 1), (1, 1)):
        masks.append(attention_keep_mask(AttentionDropout(0.5, fold_seed(*parts), 0, 4), 1, 1, 256, "cpu")[0])
    masks.append(attention_keep_mask(AttentionDropout(0.5, fold_seed(1) + 1, 0, 4), 1, 1, 256, "cpu")[0])
    deviates = torch.cat(masks).flatten(1).float() * 2 - 1
    products = deviates @ deviates.mT / count**0.5
    assert (products - torch.eye(len(deviates)) * count**0.5).abs().max() < 6


def test_sites_of_one_step_are_unrelated() -> None:
    rows, columns = torch.arange(256)[:, None], torch.arange(256)
    first = keep_mask(fold_seed(1, 10, 0, 3), rows, columns, 0.5)
    for other in ((2, 10, 0, 3), (1, 11, 0, 3), (1, 10, 1, 3), (1, 10, 0, 4)):
        agreement = (keep_mask(fold_seed(*other), rows, columns, 0.5) == first).double().mean().item()
        assert abs(agreement - 0.5) < 4 * 0.5 / 2**8


def test_each_bit_of_seed_row_and_column_reaches_the_upper_bits() -> None:
    rows, columns = torch.arange(512)[:, None], torch.arange(256)
    whole = random_bits(99, rows, columns)
    flipped = [random_bits(99 ^ 1 << bit, rows, columns) for bit in range(64)]
    flipped += [random_bits(99, rows ^ 1 << bit, columns) for bit in range(63)]
    flipped += [random_bits(99, rows, columns ^ 1 << bit) for bit in range(20)]  # higher ones reach fewer bits
    for bits in flipped:
        for bit in range(24, 32):
            assert abs(((bits ^ whole) >> bit & 1).double().mean().item() - 0.5) < 0.02


def test_bits_are_uniform() -> None:
    bits = random_bits(fold_seed(2), torch.arange(256)[:, None], torch.arange(1024))
    counts = torch.bincount((bits >> 22).flatten(), minlength=1024).double()
    chi_square = ((counts - 256).square() / 256).sum().item()
    assert abs(chi_square - 1023) < 6 * (2 * 1023) ** 0.5
    for bit in range(32):
        assert abs((bits >> bit & 1).double().mean().item() - 0.5) < 6 * 0.5 / 2**9


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
    assert mask.shape == (2, 3, 16, 16)
    for batch in range(2):
        for head in range(3):
            rows = (batch * 6 + 2 + head) * 16 + torch.arange(16)
            assert torch.equal(mask[batch, head], keep_mask(99, rows[:, None], torch.arange(16), 0.4))


def test_a_block_is_part_of_the_whole() -> None:
    dropout = AttentionDropout(0.4, 99, 2, 6)
    whole = attention_keep_mask(dropout, 2, 3, 50, "cpu")
    block = attention_keep_mask(dropout, 2, 3, 50, "cpu", range(20, 37), range(5, 37))
    assert torch.equal(block, whole[:, :, 20:37, 5:37])
    hidden = hidden_keep_mask(HiddenDropout(0.4, 99, 0, 12), 2, 12, 7, "cpu")
    assert torch.equal(hidden_keep_mask(HiddenDropout(0.4, 99, 4, 12), 2, 3, 7, "cpu"), hidden[:, 4:7])


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
    with pytest.raises(ValueError, match="rows must be int64"):
        random_bits(1, torch.arange(3, dtype=torch.int32), torch.arange(3))
    with pytest.raises(ValueError, match="columns must be int64"):
        random_bits(1, torch.arange(3), torch.arange(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="heads 3 to 6"):
        attention_keep_mask(AttentionDropout(0.1, 1, 3, 6), 1, 4, 2, "cpu")
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        drop_threshold(1.5)


def test_signed_keeps_the_bits() -> None:
    assert [signed(value) for value in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [0, 2**63 - 1, -(2**63), -1]
