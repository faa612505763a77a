"""Laws of the placement of chunks and of splitting layers over pipeline stages."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacode.layout.stages import Placement, split_layers

PLACEMENTS = [Placement(stages, chunks) for stages in range(1, 9) for chunks in range(1, 5)]
PLACEMENTS += [Placement(stages, 2, is_v=True) for stages in range(1, 9)]


@pytest.mark.parametrize("placement", PLACEMENTS, ids=str)
def test_every_chunk_of_every_stage_is_one_virtual_stage(placement: Placement) -> None:
    places = [placement.at(virtual) for virtual in range(placement.num_virtual_stages)]
    assert sorted(places) == sorted(product(range(placement.num_stages), range(placement.num_chunks)))
    assert [placement.virtual_stage(*place) for place in places] == list(range(len(places)))
    assert [placement.previous(*place) for place in places] == [None, *places[:-1]]
    assert [placement.next(*place) for place in places] == [*places[1:], None]
    assert (placement.first_stage, placement.last_stage) == (0, 0 if placement.is_v else placement.num_stages - 1)


def test_a_v_goes_down_and_comes_back() -> None:
    v = Placement(3, 2, is_v=True)
    assert [v.at(virtual) for virtual in range(6)] == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]
    assert Placement(3, 2).at(4) == (1, 1)


def test_places_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="virtual stage 6 is outside"):
        Placement(3, 2).at(6)
    with pytest.raises(ValueError, match="no chunk 2 of stage 0"):
        Placement(3, 2).virtual_stage(0, 2)
    with pytest.raises(ValueError, match="needs stages and chunks"):
        Placement(0)


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, Placement, float]:
    placement = draw(st.sampled_from(PLACEMENTS))
    return draw(st.integers(placement.num_virtual_stages, 120)), placement, draw(st.sampled_from([0.0, 0.25, 0.8, 2.5]))


def _loads(counts: list[int], placement: Placement, head: float) -> list[float]:
    loads = [0.0] * placement.num_stages
    for virtual, count in enumerate(counts):
        loads[placement.at(virtual)[0]] += count
    loads[placement.last_stage] += head
    return loads


@given(splits())
def test_every_layer_has_one_virtual_stage_in_order(split: tuple[int, Placement, float]) -> None:
    layers, placement, head = split
    ranges = split_layers(layers, placement, head_cost=head)
    assert len(ranges) == placement.num_virtual_stages and min(map(len, ranges)) >= 1
    assert [layer for share in ranges for layer in share] == list(range(layers))


@given(splits())
def test_no_layer_can_move_to_make_the_largest_load_smaller(split: tuple[int, Placement, float]) -> None:
    """Layers are equal, so a split that no single move improves is the best one."""
    layers, placement, head = split
    counts = [len(share) for share in split_layers(layers, placement, head_cost=head)]
    loads = _loads(counts, placement, head)
    movable = {placement.at(virtual)[0] for virtual, count in enumerate(counts) if count > 1}
    for stage in movable:
        assert loads[stage] - 1 <= min(loads) + 1e-9, (counts, loads)


@given(splits())
def test_inner_virtual_stages_get_no_less_than_the_ends(split: tuple[int, Placement, float]) -> None:
    layers, placement, head = split
    counts = [len(share) for share in split_layers(layers, placement, head_cost=head)]
    if placement.num_chunks == 1:
        assert all(max(counts[0], counts[-1]) <= inner for inner in counts[1:-1])


@pytest.mark.parametrize(
    ("layers", "placement", "head", "counts"),
    [
        (40, Placement(4), 0.8, [10, 10, 10, 10]),
        (41, Placement(4), 0.0, [10, 11, 10, 10]),
        (42, Placement(4), 0.0, [10, 11, 11, 10]),
        (43, Placement(4), 0.0, [11, 11, 11, 10]),
        (40, Placement(4), 2.0, [10, 11, 11, 8]),
        (40, Placement(4, 2), 0.8, [5] * 8),
        (40, Placement(4, 2, is_v=True), 0.8, [5] * 8),
        (40, Placement(4, 2, is_v=True), 2.5, [5, 6, 6, 5, 5, 5, 5, 3]),
    ],
)
def test_examples(layers: int, placement: Placement, head: float, counts: list[int]) -> None:
    assert [len(share) for share in split_layers(layers, placement, head_cost=head)] == counts


@pytest.mark.parametrize(("layers", "placement"), [(3, Placement(4)), (7, Placement(4, 2)), (0, Placement(1))])
def test_a_virtual_stage_without_a_layer_is_refused(layers: int, placement: Placement) -> None:
    with pytest.raises(ValueError, match="every one needs a layer"):
        split_layers(layers, placement)
