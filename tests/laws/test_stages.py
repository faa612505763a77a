"""Laws of splitting layers over pipeline stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacode.layout.stages import Placement, split_layers


@st.composite
def layers_and_stages(draw: st.DrawFn) -> tuple[int, int]:
    layers = draw(st.integers(1, 200))
    return layers, draw(st.integers(1, layers))


@given(layers_and_stages())
def test_every_layer_has_one_stage_in_order(sizes: tuple[int, int]) -> None:
    layers, stages = sizes
    ranges = split_layers(layers, Placement(stages))
    assert len(ranges) == stages
    assert [layer for share in ranges for layer in share] == list(range(layers))


@given(layers_and_stages())
def test_shares_differ_by_one_at_most_and_the_ends_have_no_more_than_inner_stages(sizes: tuple[int, int]) -> None:
    counts = [len(share) for share in split_layers(*sizes)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    assert all(max(counts[0], counts[-1]) <= inner for inner in counts[1:-1])


@pytest.mark.parametrize(
    ("layers", "stages", "counts"),
    [(40, 4, [10, 10, 10, 10]), (41, 4, [10, 11, 10, 10]), (42, 4, [10, 11, 11, 10]), (43, 4, [11, 11, 11, 10])],
)
def test_examples(layers: int, stages: int, counts: list[int]) -> None:
    assert [len(share) for share in split_layers(layers, Placement(stages))] == counts


@pytest.mark.parametrize(("layers", "stages"), [(3, 4), (4, 0), (0, 1)])
def test_a_stage_without_a_layer_is_refused(layers: int, stages: int) -> None:
    with pytest.raises(ValueError, match="every stage needs one"):
        split_layers(layers, Placement(stages))
