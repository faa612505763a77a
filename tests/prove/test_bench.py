"""The benchmark's promises: fair turns, phases that add up, figures that say what they are, failures in one line."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config

from megacode.config import ConfigError
from megacode.config.schema import RunConfig
from megacode.data.batches import BatchPlan
from megacode.layout.schedules import make_schedule
from megacode.layout.stages import Placement
from megacode.plan import count_parameters
from megacode.prove.bench.bubble import Pass, measured_bubble, median_passes, simulated_bubble
from megacode.prove.bench.contenders import (
    Contender,
    Request,
    WrongCall,
    contenders,
    layout_of,
    layout_overrides,
)
from megacode.prove.bench.figures import PHASES, figures, paired_ratios
from megacode.prove.bench.measure import Plan, Record, measure, order_of_turn
from megacode.prove.bench.table import render
from megacode.prove.peers.worker import Setup
from megacode.prove.synthetic import RandomTokens

PROJECT = Path(__file__).parents[2]
BENCH = PROJECT / "examples" / "bench_cpu.toml"
PEERS = PROJECT / "megacode" / "prove" / "peers"
ROTARY = {"positions": "rotary", "kv_heads": 2, "tied": False}

# Speaks the workers' language, and dies in its second step.
DIES = """
import json, sys
print(json.dumps({"ready": {}}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "probe":
        print(json.dumps({"gflops": 1.0}), flush=True)
        continue
    for step in range(order["first"], order["first"] + order["count"]):
        if step == 2:
            print("first of two lines\\nout of luck", file=sys.stderr)
            sys.exit(3)
        print(json.dumps({"step": step, "seconds": 1.0, "loss": 1.0, "peak_memory_bytes": 1}), flush=True)
"""


def _ours(config: RunConfig, engine: str = "megacode") -> Contender:
    return Contender(engine, layout_of(config), config, (sys.executable, "-m", "megacode.prove.bench.ours"))


def _peer(config: RunConfig, driver: str) -> Contender:
    return Contender(driver, layout_of(config), config, (sys.executable, str(PEERS / f"{driver}.py")))


def _measure(*wanted: Contender, steps: int = 3) -> tuple[list[Record], dict[str, Any]]:
    plan = Plan(steps, 1)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    records = measure(wanted, plan, environment, lambda count: None)
    return records, figures(records, plan)


# --- what is asked for


def test_layouts_are_overrides_of_the_configuration() -> None:
    assert layout_overrides("") == []
    assert layout_overrides("2x1x4") == ["parallel.tp=2", "parallel.pp=1", "parallel.dp=4"]
    assert layout_overrides("1x2x1:interleaved:2")[3:] == ['parallel.schedule="interleaved"', "parallel.chunks=2"]
    for wrong in ("2x2", "0x1x1", "axbxc", "1x1x1:gpipe:2:3"):
        with pytest.raises(WrongCall, match=wrong):
            layout_overrides(wrong)


def test_every_cell_has_ours_then_its_variants_then_the_peers() -> None:
    request = Request(BENCH, (), "1x1x1,1x2x1:gpipe", "bf16,fp32", "plain", ("optim.clip=2.0",))
    found = contenders(request)
    assert [one.engine for one in found] == ["megacode", "megacode optim.clip=2.0", "plain"] * 4
    assert [one.cell for one in found[::3]] == [
        (layout, precision) for precision in ("bf16", "fp32") for layout in ("1x1x1", "1x2x1:gpipe")
    ]
    assert [one.config.optim.clip for one in found[:3]] == [1.0, 2.0, 1.0]
    assert found[3].config.parallel.schedule == "gpipe" and found[3].config.parallel.pp == 2
    assert [one.is_ours for one in found[:3]] == [True, True, False]


def test_what_cannot_be_measured_is_said_before_anything_starts() -> None:
    with pytest.raises(
        WrongCall, match="nanotron: unknown peer; known: transformers, plain, megatron-core, torchtitan"
    ):
        contenders(Request(BENCH, against="plain,nanotron"))
    with pytest.raises(ConfigError, match=r"parallel\.tp"):
        contenders(Request(BENCH, layouts="1x1x1,3x1x1"))


# --- turns and figures


def test_turns_go_there_and_back() -> None:
    turns = [list(order_of_turn(turn, 3)) for turn in range(4)]
    assert turns == [[0, 1, 2], [2, 1, 0], [0, 1, 2], [2, 1, 0]]
    assert Plan(5, 1).turns() == [2, 2, 1] and Plan(1, 1).turns() == [1]


def test_ratios_pair_the_medians_of_a_turn() -> None:
    assert paired_ratios([[1.0, 1.0], [2.0, 2.0]], [[3.0, 5.0], [2.0, 6.0]]) == [4.0, 2.0]


def test_a_comparison_is_the_median_of_paired_ratios_with_quartiles() -> None:
    config = tiny_config()
    speeds = {"megacode": [1.0, 2.0, 4.0], "other": [2.0, 2.0, 12.0]}  # ratios 2, 1 and 3, though the host drifts
    records = [Record(Contender(name, "1x1x1", config, ())) for name in speeds]
    for record, seconds in zip(records, speeds.values(), strict=True):
        for second in seconds:
            record.gflops.append([1.0])
            record.rows.append([[{"seconds": second, "loss": 1.0, "peak_memory_bytes": 5}]])
    found = figures(records, Plan(3, 1))
    (comparison,) = found["comparisons"]
    assert (comparison["engine"], comparison["beside"]) == ("megacode", "other")
    assert (comparison["times_as_fast"], comparison["quartiles"]) == (2.0, [1.5, 2.5])
    assert found["engines"][0]["tokens_per_second"] == config.tokens_per_step / 2.0


def test_ours_is_compared_with_all_and_its_variants_with_the_peers() -> None:
    config = tiny_config()
    names = ("megacode", "megacode x", "plain")
    records = [Record(Contender(name, "1x1x1", config, ()), error="not run") for name in names]
    records.append(Record(Contender("plain", "2x1x1", config, ()), error="not run"))
    found = figures(records, Plan(1, 1))
    pairs = [(one["engine"], one["beside"]) for one in found["comparisons"]]
    assert pairs == [("megacode", "megacode x"), ("megacode", "plain"), ("megacode x", "plain")]


def test_bubbles() -> None:
    first = [["forward", 0, 0, 0.0, 1.0], ["backward", 0, 0, 5.0, 7.0]]
    last = [["forward", 0, 0, 2.0, 3.0], ["backward", 0, 0, 3.0, 5.0]]
    assert measured_bubble([first, last]) == pytest.approx(1 - 6 / 14)
    passes = median_passes([(0, first), (0, [["forward", 0, 1, 0.0, 3.0], ["forward", 1, 1, 3.0, 9.0]]), (1, last)])
    assert Pass(0, "forward", 0, 2.0) in passes and Pass(1, "backward", 0, 2.0) in passes
    assert Pass(0, "forward", 1, 6.0) in passes
    equal = [Pass(stage, kind, 0, seconds) for stage in (0, 1) for kind, seconds in (("forward", 1), ("backward", 2))]
    assert simulated_bubble(make_schedule("1f1b", Placement(2), 4), equal) == pytest.approx(1 / 5)


# --- real ranks


def test_two_stages_say_where_the_time_went() -> None:
    config = tiny_config(parallel={"pp": 2}, launch={"device": "cpu", "timeout_seconds": 60, "peak_tflops": 0.1})
    variant = _ours(config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 0.01})}), "megacode x")
    records, found = _measure(_ours(config), variant)
    assert not any(record.error for record in records)
    engine, other = found["engines"]
    assert engine["ranks"] == len(engine["peak_memory_bytes"]) == 2 and min(engine["peak_memory_bytes"]) > 1 << 20
    assert engine["mfu"] == pytest.approx(engine["tflops_per_rank"] / 0.1)
    assert engine["matmul_share"] == pytest.approx(engine["tflops_per_rank"] * 1e3 / engine["matmul_gflops"])
    assert engine["loss"] != other["loss"], "another learning rate trains otherwise"
    for rank, phases in enumerate(engine["phases"]):
        assert (phases["rank"], phases["tp"], phases["pp"], phases["dp"]) == (rank, 0, rank, 0)
        steps = [step for turn in records[0].rows for step in turn[rank]]
        assert phases["total"] == pytest.approx(sum(step["seconds"] for step in steps) / 3)
        assert sum(phases[name] for name in PHASES) == pytest.approx(phases["total"])
        assert all(phases[name] > 0 for name in PHASES), str(phases)
    assert 0.0 < engine["bubble"]["measured"] < 1.0 and 0.0 < engine["bubble"]["simulated"] < 0.5
    assert [(one["engine"], one["beside"]) for one in found["comparisons"]] == [("megacode", "megacode x")]
    assert "times as fast" in render(found) and "pipeline wait" in render(found)


def test_a_contender_that_dies_leaves_its_last_line_and_the_others_alone() -> None:
    config = tiny_config()
    dies = replace(_ours(config, "dies"), command=(sys.executable, "-c", DIES))
    missing = replace(dies, engine="missing", command=("/nowhere/python",))
    records, found = _measure(dies, _ours(config), missing)
    assert [record.error for record in records] == [
        "rank 0 died with exit code 3: out of luck",
        "",
        "/nowhere/python cannot be started: No such file or directory",
    ]
    assert len(records[1].rows) == 2 and found["engines"][1]["tokens_per_second"] > 0
    assert found["engines"][0]["error"] and "tokens_per_second" not in found["engines"][0]
    assert all(one["error"] for one in found["comparisons"])
    assert "dies 1x1x1 fp32: rank 0 died with exit code 3: out of luck" in render(found)


def test_a_peer_refuses_in_one_line_what_it_does_not_do() -> None:
    config = tiny_config(parallel={"tp": 2})
    dropout = tiny_config(model={"hidden_dropout": 0.1})
    package = replace(_peer(tiny_config(), "plain"), command=(sys.executable, "-c", "import nothing_of_that_name"))
    schedule = _peer(tiny_config(parallel={"pp": 2, "schedule": "zb-h1"}), "torchtitan_engine")
    records, _ = _measure(_peer(config, "plain"), _peer(dropout, "plain"), package, schedule)
    assert records[0].error in {f"rank {rank}: has data parallelism only" for rank in (0, 1)}
    assert "without dropout" in records[1].error
    assert records[2].error.endswith("ModuleNotFoundError: No module named 'nothing_of_that_name'")
    assert '"1f1b" or "gpipe"' in records[3].error, "refused before its package is asked for"


def test_a_silent_contender_is_given_up() -> None:
    config = tiny_config(launch={"device": "cpu", "timeout_seconds": 1})
    (record,), _ = _measure(replace(_ours(config, "mute"), command=(sys.executable, "-c", "input()")))
    assert record.error == "ranks [0] have been silent for 1 s"


def test_peers_train_on_the_tokens_that_our_engine_gets() -> None:
    config = tiny_config(parallel={"dp": 2}, train={"micro_batch": 2})
    setup = Setup(0, 2, "", config.model_dump(mode="json"))
    tokens: Any = RandomTokens(config.model.vocab, config.data.sequence)
    plan = BatchPlan(tokens, config.train.micro_batch, config.train.global_batch, 2)
    for step, replica in ((1, 0), (3, 1)):
        batches = setup.batches(step, replica)
        assert len(batches) == plan.micro_batches_per_rank
        for index, (inputs, targets) in enumerate(batches):
            ours = plan.micro_batch(step - 1, replica, index)
            assert inputs.equal(ours.tokens) and targets.equal(ours.targets)


@pytest.mark.slow
def test_torchtitan_trains_the_same_model_in_every_layout() -> None:
    pytest.importorskip("torchtitan")
    for model in ({}, ROTARY):
        layouts = [{}, {"tp": 2}, {"pp": 2}, {"dp": 2}, {"tp": 2, "pp": 2}]
        wanted = [_peer(tiny_config(model=model, parallel=layout), "torchtitan_engine") for layout in layouts]
        records, found = _measure(*wanted)
        assert [record.error for record in records] == [""] * len(layouts)
        structure = wanted[0].config.model
        for engine in found["engines"]:
            assert engine["parameters"] == count_parameters(structure).total, engine["layout"]
            assert engine["loss"] == pytest.approx(found["engines"][0]["loss"], abs=1e-4), "equal initial weights"
            assert abs(engine["loss"] - math.log(structure.vocab)) < 0.5, "untrained on random tokens"


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["plain", "transformers_loop"])
def test_a_peer_has_the_same_model_and_trains_alike_on_one_and_two_replicas(driver: str) -> None:
    if driver == "transformers_loop":
        pytest.importorskip("transformers")
    starcoder, starcoder2 = tiny_config(), tiny_config(model=ROTARY)
    wanted = [_peer(config, driver) for config in (starcoder, starcoder2, tiny_config(parallel={"dp": 2}))]
    records, found = _measure(*wanted)
    assert [record.error for record in records] == ["", "", ""]
    one, other, two = found["engines"]
    assert one["parameters"] == two["parameters"] == count_parameters(starcoder.model).total
    assert other["parameters"] == count_parameters(starcoder2.model).total
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    for engine in (one, other):
        assert abs(engine["loss"] - math.log(starcoder.model.vocab)) < 0.5, "untrained on random tokens"
