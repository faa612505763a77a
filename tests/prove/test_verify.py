"""`megacode verify`: sound mixes are found the same, and each planted fault is told by the name of what it breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faults
import pytest

from megacode.config import ConfigError, RunConfig, load_config
from megacode.layout.schedules import SCHEDULES
from megacode.prove.layouts import Layout, WrongCall
from megacode.prove.mixes import WORDS, Mix, mixes
from megacode.prove.shrink import shrink
from megacode.prove.verify import References, Verdict, own_layout, render_summary, toys, verify

PROJECT = Path(__file__).parents[2]

# Every schedule, both ZeRO stages, every kind of head, window, documents, recomputation, dropout; up to 16 ranks.
CHOSEN = (
    "4x1x1 gqa rotary untied",
    "2x1x2 mha full",
    "4x1x2 gqa rotary untied window dropout zero-0",
    "2x2x2:1f1b mqa dropout zero-0 pp-before-dp full-1",
    "2x3x1:1f1b 3-layers gqa rotary window documents selective",
    "1x2x2:1f1b mqa batch-6 dropout",
    "1x2x1:1f1b mqa stages-1-3",
    "1x2x1:gpipe mqa dropout full",
    "1x2x2:interleaved:3 6-layers mqa dropout zero-0",
    "2x2x2:interleaved:2 gqa rotary untied window dropout selective",
    "1x4x1:zb-h1 mha batch-6 selective",
    "2x2x2:zb-h1 mqa dropout zero-0",
    "1x2x4:zb-v mqa dropout zero-0 batch-8",
    "2x2x1:zb-v gqa rotary window documents selective",
    "4x4x1:1f1b mqa dropout",
)


@pytest.fixture(scope="module")
def references() -> References:
    """What one process computes, kept over the tests of this file."""
    return References()


# --- sound mixes


@pytest.mark.parametrize("name", CHOSEN)
def test_a_mix_computes_the_same_model(name: str, references: References) -> None:
    verdict = verify(name, toys(None)[name], references)
    assert verdict.is_sound, str(verdict)
    assert verdict.gradient_error <= 1e-5 and verdict.first_norm_error <= 1e-6 and verdict.loss_error <= 1e-5


def test_the_mixes_leave_nothing_out() -> None:
    """Sizes, schedules, words; what was chosen for every run of the tests has each schedule and word family too."""
    found = mixes()
    assert len(found) == len(set(map(str, found))) >= 40
    assert {mix.layout.tp for mix in found} == {mix.layout.pp for mix in found} - {3} == {1, 2, 4}
    assert {mix.layout.dp for mix in found} == {1, 2, 4}
    words = Counter(word for mix in found for word in mix.words)
    assert words.keys() == WORDS.keys()
    configs = [mix.config() for mix in found]
    ranks = [config.parallel.world_size for config in configs]
    assert max(ranks) == 16 and ranks.count(16) >= 4
    assert any((c.parallel.tp, c.parallel.pp, c.model.kv_heads) == (4, 4, 1) for c in configs)
    assert any((c.parallel.tp, c.model.kv_heads) == (4, 2) for c in configs)
    assert {c.parallel.chunks for c in configs if c.parallel.schedule == "interleaved"} == {2, 3}
    for schedule in SCHEDULES:
        uneven = [c for c in configs if c.parallel.schedule == schedule and c.micro_batches % c.parallel.pp]
        assert uneven or schedule == "gpipe", f"{schedule} with micro-batches that stages don't divide"
    assert all(config.train.precision == "fp32" and config.train.steps == 20 for config in configs)

    chosen = [Mix(mix.layout, mix.words) for mix in found if str(mix) in CHOSEN]
    assert len(chosen) == len(CHOSEN) >= 12
    assert {mix.config().parallel.schedule for mix in chosen if mix.layout.pp > 1} == set(SCHEDULES)
    assert {mix.config().optim.zero_stage for mix in chosen if mix.layout.dp > 1} == {0, 1}
    few = {"mqa", "gqa", "mha", "window", "documents", "dropout", "selective", "full", "untied", "pp-before-dp"}
    assert few <= {word for mix in chosen for word in mix.words}


# --- planted faults


def said_of(plant: Callable[[], None], name: str, references: References) -> str:
    """What is told of a mix with the fault after five steps."""
    layout, *words = name.split()
    config = Mix(Layout.parse(layout), tuple(words)).config()
    few = config.model_copy(update={"train": config.train.model_copy(update={"steps": 5})})
    return str(verify(name, few, references, faults.faulty(plant)))


@pytest.mark.parametrize(
    ("plant", "mix", "named"),
    [
        (faults.missing_key_value_sum, "2x1x1 mqa", "gradient of layers.0.attention.key_value.weight (ranks 0)"),
        (faults.missing_key_value_sum, "4x1x1 gqa", "gradient of layers.0.attention.key_value.weight (ranks 0)"),
        (faults.missing_norm_sum, "2x1x1 mqa", "gradient of layers.1.mlp_norm.bias (ranks 0)"),
        (faults.doubled_norm, "2x1x1 mqa", "gradient norm of step 1"),
        (faults.dropped_tied_gradient, "1x2x1 mqa", "gradient of embedding.tokens.weight (ranks 0)"),
        (faults.stale_tied_weight, "1x2x1 mqa", "loss of 5 steps"),
        (faults.head_taken_for_tied, "1x2x1 untied", "gradient of head.weight (ranks 1)"),
        (faults.wrong_scale_with_replicas, "1x1x2 mqa", "gradient of final_norm.weight"),
        (faults.dropout_by_rank, "2x1x1 mqa dropout", "gradient of layers.0.mlp.down.weight (ranks 0, 1)"),
        (faults.shifted_window, "2x1x1 rotary window", "gradient of layers.0.attention.query.weight (ranks 0, 1)"),
        (faults.shifted_documents, "2x1x1 documents", "gradient of layers.0.attention.query.weight (ranks 0, 1)"),
        (
            faults.documents_at_the_ends_only,
            "1x3x1 3-layers documents",
            "gradient of layers.1.attention.query.weight (ranks 1)",
        ),
        (faults.dropped_weight_pass, "1x2x1:zb-h1 mqa", "gradient of layers.2.mlp.up.weight (ranks 1)"),
        (
            faults.swapped_chunks,
            "1x2x1:interleaved:3 6-layers",
            "gradient of layers.2.attention.query.weight (ranks 0)",
        ),
        (faults.reduced_too_early, "1x1x2 mqa", "gradient of layers.3.mlp.down.weight (ranks 0, 1)"),
    ],
)
def test_a_planted_fault_is_named(plant: Callable[[], None], mix: str, named: str, references: References) -> None:
    said = said_of(plant, mix, references)
    assert "DIFFERS" in said and named in said, said


@pytest.mark.parametrize(
    ("plant", "mix", "innocent"),
    [
        (faults.missing_norm_sum, "2x1x1 mqa", ("attention.", "mlp.", "embedding.")),
        (faults.dropped_weight_pass, "1x2x1:zb-h1 mqa", ("_norm.", "initial weight")),
    ],
)
def test_a_fault_accuses_nobody_else(
    plant: Callable[[], None], mix: str, innocent: tuple[str, ...], references: References
) -> None:
    said = said_of(plant, mix, references)
    assert "DIFFERS" in said and not any(name in said for name in innocent), said


def test_a_rank_that_dies_is_told_and_the_others_go_on(references: References) -> None:
    said = said_of(faults.death_of_rank_1, "1x1x2 mqa", references)
    assert said.startswith("1x1x2 mqa: FAILED") and "rank 1 failed" in said and "as planted" in said


def test_the_summary_counts() -> None:
    verdicts = [Verdict("a", gradient_error=1e-7, loss_error=2e-7, seconds=1.0), Verdict("b", failure="x", seconds=2.0)]
    said = render_summary(verdicts)
    assert said.startswith("1 of 2 ") and "gradient 1.0e-07" in said and said.endswith("3 s")


# --- the user's own configuration


def starcoder(*overrides: str) -> RunConfig:
    """The 15.5B configuration."""
    return load_config(PROJECT / "examples" / "starcoder_15b.toml", overrides)


def starcoder2(*overrides: str) -> RunConfig:
    """The 3B configuration with a window of a quarter of the sequence."""
    overrides = ("model.window=1024", "kernels.implementation=torch", *overrides)
    return load_config(PROJECT / "examples" / "starcoder2_3b.toml", overrides)


@pytest.mark.parametrize(
    ("config", "layout"),
    [(starcoder("model.layers=41"), "1x3x2"), (starcoder2("model.tied=false"), "2x2x1:zb-v")],
    ids=["starcoder", "starcoder2"],
)
def test_the_twins_of_the_examples_compute_the_same_model(
    config: RunConfig, layout: str, references: References
) -> None:
    ((name, toy),) = toys(config, layout).items()
    verdict = verify(name, toy, references)
    assert verdict.is_sound and verdict.mix == (layout if ":" in layout else f"{layout}"), str(verdict)


def test_the_toy_twin_keeps_the_structure() -> None:
    toy = shrink(starcoder("model.kv_heads=2", "model.layers=41", "optim.zero_stage=0"), Layout(4, 3, 2))
    assert (toy.model.heads, toy.model.kv_heads) == (8, 2) and toy.model.layers > 3
    assert toy.model.ffn == 4 * toy.model.hidden and toy.model.hidden_dropout == 0.1
    assert not toy.data.document_mask and toy.train.recompute == "none" and toy.optim.zero_stage == 0
    assert toy.micro_batches == 5 and own_layout(starcoder()) == Layout(4, 4, 2, "1f1b", 1)


def test_the_toy_twin_keeps_what_starcoder2_adds() -> None:
    toy = shrink(starcoder2("model.rope_theta=1e4", "model.tied=false"), Layout(4, 2, 1))
    assert (toy.model.positions, toy.model.rope_theta, toy.model.tied) == ("rotary", 1e4, False)
    assert (toy.model.kv_heads, toy.model.window, toy.data.sequence) == (2, 16, 64)
    assert shrink(starcoder2("model.window=4096"), Layout(1, 1, 1)).model.window >= 16
    assert shrink(starcoder2("model.window=1"), Layout(1, 1, 1)).model.window == 2
    assert shrink(starcoder("model.hidden=6144"), Layout(1, 1, 1)).model.window is None


def test_the_toy_twin_keeps_schedule_chunks_and_uneven_stages() -> None:
    config = starcoder("parallel.schedule=interleaved", "parallel.chunks=3")
    own = shrink(config, own_layout(config)).parallel
    assert (own.schedule, own.chunks) == ("interleaved", 3)
    assert shrink(config, Layout.parse("2x2x1:interleaved:2")).parallel.chunks == 2
    assert shrink(config, Layout.parse("1x2x1:zb-v")).parallel.chunks == 2
    assert shrink(config, Layout.parse("2x1x1")).parallel.schedule == "1f1b"
    uneven = shrink(starcoder("parallel.stage_layers=[9, 10, 10, 11]"), Layout(1, 4, 1))
    assert uneven.parallel.stage_layers == (1, 2, 2, 2) and uneven.model.layers == 7
    assert shrink(starcoder("parallel.stage_layers=[9, 10, 10, 11]"), Layout(1, 2, 1)).parallel.stage_layers == ()


# --- what is asked for


def test_layouts_are_written_as_for_bench() -> None:
    assert Layout.parse("2x1x4") == Layout(2, 1, 4) and str(Layout(2, 1, 4)) == "2x1x4"
    for text in ("2x2x1:zb-h1", "1x4x2:interleaved:3"):
        assert str(Layout.parse(text)) == text


@pytest.mark.parametrize("text", ["2x2", "axbxc", "2x0x1", "", "2x2x1:gpipe:0", "1x1x1:gpipe:1:1"])
def test_a_wrong_layout_is_refused(text: str) -> None:
    with pytest.raises(WrongCall, match="must be TPxPPxDP"):
        Layout.parse(text)


def test_a_layout_that_cannot_be_is_refused_before_anything_starts() -> None:
    with pytest.raises(WrongCall, match="unknown schedule 'zbv'; known: 1f1b, gpipe, interleaved, zb-h1, zb-v"):
        toys(starcoder(), "2x2x1,1x2x1:zbv")
    with pytest.raises(ConfigError, match="has no effect with schedule zb-h1"):
        toys(starcoder(), "2x2x1,1x2x1:zb-h1:2")


def _called(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megacode", "verify", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_answers_in_json_and_exit_code() -> None:
    ended = _called("examples/tiny_cpu.toml", "--layouts", "1x1x2", "--json")
    assert ended.returncode == 0, ended.stderr
    (verdict,) = json.loads(ended.stdout)
    assert verdict["mix"] == "1x1x2" and verdict["findings"] == [] and verdict["gradient_error"] < 1e-5


@pytest.mark.parametrize(
    "arguments", [(), ("examples/tiny_cpu.toml", "--all"), ("--all", "--layouts", "1x1x1")], ids=str
)
def test_a_call_that_asks_for_both_or_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    ended = _called(*arguments)
    assert ended.returncode == 2 and "either a RUN.toml" in ended.stderr and not ended.stdout
