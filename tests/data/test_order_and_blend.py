"""The order of samples is computed: permutations, blends and cursors are closed formulas, and they are right."""

from __future__ import annotations

from collections import Counter
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.draws import PERMUTATION
from megacode.data.errors import DataError
from megacode.data.stream.blend import Blend, Phase, floor_sum
from megacode.data.stream.order import ComputedPermutation

FROZEN_ORDER = [171, 922, 969, 223, 572]
FROZEN_BLEND = [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (0, 2)]


def test_a_million_samples_come_once_each() -> None:
    """No repeat and none lost, another order in the next epoch, and nothing near the stored order."""
    count, everything = 1_000_000, np.arange(1_000_000)
    orders = [ComputedPermutation(7, epoch, count, PERMUTATION).at_all(everything) for epoch in (0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), everything)
        assert abs(np.corrcoef(order, everything)[0, 1]) < 0.005
        neighbours = np.abs(np.diff(order))
        assert abs(neighbours.mean() / count - 1 / 3) < 0.005  # as far apart as two uniform draws
    assert (orders[0] == orders[1]).sum() < 20


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**20))
def test_any_count_is_a_permutation_and_one_place_is_the_same_as_all(count: int, seed: int, epoch: int) -> None:
    order = ComputedPermutation(seed, epoch, count, PERMUTATION)
    everything = order.at_all(np.arange(count))
    assert sorted(everything.tolist()) == list(range(count))
    place = seed % count
    assert order.at(place) == everything[place] == ComputedPermutation(seed, epoch, count, PERMUTATION).at(place)


def test_places_are_uniform_over_epochs() -> None:
    """Each of six samples is as often at each place; five standard deviations."""
    places = np.array([ComputedPermutation(3, epoch, 6, PERMUTATION).at_all(np.arange(6)) for epoch in range(3000)])
    for column in places.T:
        assert abs(np.bincount(column, minlength=6) - 500).max() < 5 * (500 * 5 / 6) ** 0.5


def test_a_trillion_samples_take_no_time() -> None:
    start = perf_counter()
    order = ComputedPermutation(1, 0, 10**12, PERMUTATION)
    assert len({order.at(place) for place in range(0, 10**12, 10**9)}) == 1000
    assert perf_counter() - start < 1.0  # an array of them would take hours


def test_orders_and_blends_are_frozen() -> None:
    """A change of these numbers changes the data of every run."""
    assert ComputedPermutation(1, 2, 1000, PERMUTATION).at_all(np.arange(5)).tolist() == FROZEN_ORDER
    blend = Blend([Phase(0, (1.0, 2.0))], 3)
    assert [blend.source_of(sample) for sample in range(6)] == FROZEN_BLEND


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 80), st.integers(1, 60), st.integers(0, 200), st.integers(0, 200))
def test_floor_sum(count: int, modulus: int, slope: int, offset: int) -> None:
    assert floor_sum(count, modulus, slope, offset) == sum((slope * i + offset) // modulus for i in range(count))


weights = st.lists(st.floats(0.0, 100.0).filter(lambda weight: weight == 0 or weight > 1e-3), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(mixes=st.lists(weights.filter(any), min_size=1, max_size=4), length=st.integers(1, 400), seed=st.integers(0, 99))
def test_no_source_repeats_or_skips_when_the_mix_changes(mixes: list[list[float]], length: int, seed: int) -> None:
    """Each source's samples come in order, each once, through every change of the weights; cursors say how many."""
    blend = Blend([Phase(place * length, tuple(mix)) for place, mix in enumerate(mixes)], seed)
    counts = [0, 0, 0]
    for sample in range(len(mixes) * length + 50):
        assert blend.cursors(sample) == counts
        source, index = blend.source_of(sample)
        assert index == counts[source], f"sample {sample} takes sample {index} of source {source}, not the next one"
        counts[source] += 1


def test_the_mix_holds_in_every_batch_and_over_the_run() -> None:
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    blend = Blend([Phase(0, tuple(shares))], 1)
    sources = [blend.source_of(sample)[0] for sample in range(20_000)]
    counts = np.array([Counter(sources)[source] for source in range(4)])
    assert np.abs(counts - shares * 20_000).max() < 8
    for first in range(0, 20_000 - 511, 512):
        batch = np.bincount(sources[first : first + 512], minlength=4)
        assert np.abs(batch - shares * 512).max() < 6
    assert np.abs(np.array(blend.cursors(10**12)) - shares * 10**12).max() < 100


def test_wrong_blends() -> None:
    for phases, message in [
        ([], "must begin at sample 0"),
        ([Phase(3, (1.0,))], "must begin at sample 0"),
        ([Phase(0, (1.0,)), Phase(0, (2.0,))], "one after another; found 0 after 0"),
        ([Phase(0, (1.0, 2.0)), Phase(9, (2.0,))], "the blend from sample 9 has 1 weights, the first has 2"),
        ([Phase(0, (0.0, 0.0))], "at least 0 and not all 0"),
        ([Phase(0, (1.0, -1.0))], "at least 0 and not all 0"),
        ([Phase(0, (1.0, float("nan")))], "at least 0 and not all 0"),
    ]:
        with pytest.raises(DataError, match=message):
            Blend(phases, 0)
