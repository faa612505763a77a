"""The planner's parameter counts are those of the layers that really get built, on every rank of every layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_config

from megacode.kernels.dispatch import choose
from megacode.layout.topology import Topology
from megacode.model.stage import Stage
from megacode.parallel.groups import Group, Groups
from megacode.plan.parameters import count_on_rank, count_parameters


def unconnected(topology: Topology, rank: int) -> Groups:
    """The groups of a rank in a world that was never joined: enough to build layers."""

    def group(*axes: str) -> Group:
        ranks = topology.group(rank, *axes)
        return Group(ranks, ranks.index(rank), None)

    return Groups(topology, rank, group("tp", "pp", "dp"), group("tp"), group("dp"), Group((rank,), 0, None))


MODELS = [{"kv_heads": kv_heads} for kv_heads in (1, 2, 4)]
MODELS += [{"positions": "rotary", "kv_heads": 2, "tied": tied} for tied in (True, False)]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (1, 2), (2, 1), (4, 2)])
def test_counts_match_the_layers(tp: int, pp: int, model: dict[str, Any]) -> None:
    config = tiny_config(model={**model, "layers": 3}, parallel={"tp": tp, "pp": pp})
    topology, logical = Topology(tp, pp, 1), dict[str, int]()
    for rank in range(topology.world_size):
        groups = unconnected(topology, rank)
        specs = Stage(config, groups, choose("torch", "cpu"), torch.device("cpu")).specs()
        held = sum(parameter.numel() for _, parameter in specs)
        assert held == count_on_rank(config.model, config.parallel, groups.coords.pp).total, f"rank {rank}"
        logical |= {spec.name: torch.Size(spec.shape).numel() for spec, _ in specs if spec.tied_to is None}
    assert sum(logical.values()) == count_parameters(config.model).total
