"""Laws of the rank arithmetic, and Megatron's own formula for its groups, written out independently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacode.layout.topology import AXES, Coordinates, Topology

SIZES = st.integers(1, 6)
TOPOLOGIES = st.builds(Topology, SIZES, SIZES, SIZES, st.permutations(AXES).map("-".join))
STARCODER = Topology(tp=4, pp=4, dp=32)


def _megatron_groups(tp: int, pp: int, dp: int) -> dict[str, set[tuple[int, ...]]]:
    """The loops of Megatron-LM's initialize_model_parallel (2021 to 2023)."""
    world = tp * pp * dp
    pipelines = world // pp
    tensor = {tuple(range(i * tp, (i + 1) * tp)) for i in range(world // tp)}
    pipeline = {tuple(range(i, world, pipelines)) for i in range(pipelines)}
    data = {
        tuple(range(i * pipelines + j, (i + 1) * pipelines, tp))  # one per stage and tensor rank
        for i in range(pp)
        for j in range(tp)
    }
    return {"tp": tensor, "pp": pipeline, "dp": data}


@pytest.mark.parametrize("axis", AXES)
def test_all_groups_of_starcoders_512_ranks_are_megatrons(axis: str) -> None:
    expected = _megatron_groups(4, 4, 32)[axis]
    assert set(STARCODER.groups(axis)) == expected
    own = {rank: group for group in expected for rank in group}
    assert sorted(own) == list(range(512))
    assert all(STARCODER.group(rank, axis) == own[rank] for rank in range(512))


def test_a_stage_of_starcoder_is_a_block_and_a_tensor_group_stays_in_a_node() -> None:
    assert STARCODER.group(0, "tp", "dp") == tuple(range(128))
    assert all(len({rank // 8 for rank in group}) == 1 for group in STARCODER.groups("tp"))


def test_the_other_order_keeps_a_replica_on_neighbouring_ranks() -> None:
    topology = Topology(tp=4, pp=4, dp=32, order="tp-pp-dp")
    assert topology.group(0, "tp", "pp") == tuple(range(16))
    assert topology.coords(17) == Coordinates(tp=1, pp=0, dp=1)


@given(TOPOLOGIES)
def test_ranks_and_coordinates_are_inverse(topology: Topology) -> None:
    places = [topology.coords(rank) for rank in range(topology.world_size)]
    assert len(set(places)) == topology.world_size
    assert [topology.rank(place) for place in places] == list(range(topology.world_size))
    assert all(0 <= value < topology.size(axis) for place in places for axis, value in zip(AXES, place, strict=True))


@given(TOPOLOGIES, st.sets(st.sampled_from(AXES)))
def test_groups_partition_the_ranks(topology: Topology, axes: set[str]) -> None:
    groups = topology.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(topology.world_size))
    assert all(topology.group(rank, *axes) == group == tuple(sorted(group)) for group in groups for rank in group)


@given(TOPOLOGIES, st.data())
def test_a_peer_differs_in_its_stage_only(topology: Topology, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, topology.world_size - 1))
    stage = data.draw(st.integers(0, topology.pp - 1))
    own, other = topology.coords(rank), topology.coords(topology.peer(rank, stage))
    assert (other.tp, other.pp, other.dp) == (own.tp, stage, own.dp)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 512 is outside"):
        STARCODER.coords(512)
    with pytest.raises(ValueError, match="must name tp, pp and dp"):
        Topology(1, 1, 1, order="tp-dp")
    with pytest.raises(ValueError, match="at least 1"):
        Topology(0, 1, 1)
    with pytest.raises(ValueError, match="unknown axis tensor"):
        STARCODER.groups("tensor")
    with pytest.raises(ValueError, match="unknown axis tensor"):
        STARCODER.group(0, "tensor")
