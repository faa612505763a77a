"""`megacode verify`: sound layouts are found the same, and each planted fault is told by the name of what it breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import pytest

from megacode.config import RunConfig, load_config
from megacode.errors import MegacodeError
from megacode.prove.shrink import shrink
from megacode.prove.verify import Layout, default_layout, render, verify

PROJECT = Path(__file__).parents[2]


def starcoder(*overrides: str) -> RunConfig:
    """The 15.5B configuration."""
    return load_config(PROJECT / "examples" / "starcoder_15b.toml", overrides)


MIXES = [
    ("4x1x1", ()),
    ("1x4x1", ()),
    ("1x1x4", ()),
    ("4x2x1", ("model.kv_heads=2",)),
    ("2x4x1", ("model.kv_heads=48",)),
    ("2x2x2", ("model.kv_heads=4", "parallel.order=tp-pp-dp")),
    ("4x1x2", ("parallel.schedule=gpipe", "train.micro_batch=2")),
    ("1x3x2", ("model.layers=41",)),
    ("2x2x1", ("train.recompute=full", "train.recompute_blocks=1")),
    ("2x2x2", ("train.recompute=selective",)),
    ("2x3x1", ("data.document_mask=true", "kernels.implementation=torch")),
    ("4x4x1", ()),
]


@pytest.mark.parametrize(("layout", "overrides"), MIXES)
def test_sound_layouts_compute_the_same_model(layout: str, overrides: tuple[str, ...]) -> None:
    """With StarCoder's dropout of 0.1 everywhere."""
    verdict = verify(starcoder(*overrides), Layout.parse(layout))
    assert verdict.findings == (), render([verdict])


def starcoder2(*overrides: str) -> RunConfig:
    """The 3B configuration with a window of a quarter of the sequence."""
    overrides = ("model.window=1024", "kernels.implementation=torch", *overrides)
    return load_config(PROJECT / "examples" / "starcoder2_3b.toml", overrides)


@pytest.mark.parametrize(
    ("layout", "overrides"),
    [
        ("4x1x1", ()),
        ("1x2x1", ("model.tied=false",)),
        ("1x2x2", ("model.hidden_dropout=0.1",)),
        ("2x3x2", ("model.tied=false", "model.attention_dropout=0.1", "model.window=4096")),
    ],
)
def test_sound_layouts_of_starcoder2(layout: str, overrides: tuple[str, ...]) -> None:
    """Two key-value heads under TP 4; a head of its own where the pipeline is cut; a window and none; dropout."""
    verdict = verify(starcoder2(*overrides), Layout.parse(layout))
    assert verdict.findings == (), render([verdict])


@pytest.mark.parametrize(
    ("plant", "layout", "named"),
    [
        (faults.shifted_window, "2x1x1", "gradient of layers.0.attention.query.weight (ranks 0, 1)"),
        (faults.missing_key_value_sum, "4x1x1", "gradient of layers.0.attention.key_value.weight (ranks 0)"),
        (faults.head_taken_for_tied, "1x2x1", "gradient of head.weight (ranks 1)"),
        (faults.shifted_documents, "2x1x1", "gradient of layers.0.attention.query.weight (ranks 0, 1)"),
        (faults.documents_at_the_ends_only, "1x3x1", "gradient of layers.1.attention.query.weight (ranks 1)"),
    ],
)
def test_a_fault_planted_in_starcoder2_is_named(plant: Callable[[], None], layout: str, named: str) -> None:
    config = starcoder2("model.tied=false", "data.document_mask=true")
    said = render([verify(config, Layout.parse(layout), faults.faulty(plant))])
    assert "DIFFERS" in said and named in said, said


@pytest.mark.parametrize(
    ("plant", "layout", "named"),
    [
        (faults.missing_key_value_sum, "2x1x1", "gradient of layers.0.attention.key_value.weight (ranks 0)"),
        (faults.missing_norm_sum, "2x1x1", "gradient of layers.1.mlp_norm.bias (ranks 0)"),
        (faults.doubled_norm, "2x1x1", "gradient norm of step 1"),
        (faults.dropped_tied_gradient, "1x2x1", "gradient of embedding.tokens.weight (ranks 0)"),
        (faults.stale_tied_weight, "1x2x1", "loss of 5 steps"),
        (faults.wrong_scale_with_replicas, "1x1x2", "gradient of final_norm.weight"),
        (faults.dropout_by_rank, "2x1x1", "gradient of layers.0.mlp.down.weight (ranks 0, 1)"),
    ],
)
def test_a_planted_fault_is_named(plant: Callable[[], None], layout: str, named: str) -> None:
    verdict = verify(starcoder(), Layout.parse(layout), faults.faulty(plant))
    said = render([verdict])
    assert "DIFFERS" in said and named in said, said


def test_a_missing_sum_accuses_nobody_else() -> None:
    verdict = verify(starcoder(), Layout.parse("2x1x1"), faults.faulty(faults.missing_norm_sum))
    assert all("norm" in finding.name or finding.what != "gradient of" for finding in verdict.findings), render(
        [verdict]
    )


def test_the_toy_twin_keeps_the_structure() -> None:
    toy = shrink(starcoder("model.kv_heads=2", "model.layers=41"), 4, 3, 2)
    assert (toy.model.heads, toy.model.kv_heads) == (8, 2) and toy.model.layers > 3
    assert toy.model.ffn == 4 * toy.model.hidden and toy.model.hidden_dropout == 0.1
    assert not toy.data.document_mask and toy.train.recompute == "none"
    assert toy.micro_batches == 5 and default_layout(starcoder()) == Layout(4, 4, 2)


def test_the_toy_twin_keeps_what_starcoder2_adds() -> None:
    toy = shrink(starcoder2("model.rope_theta=1e4", "model.tied=false"), 4, 2, 1)
    assert (toy.model.positions, toy.model.rope_theta, toy.model.tied) == ("rotary", 1e4, False)
    assert (toy.model.kv_heads, toy.model.window, toy.data.sequence) == (2, 16, 64)
    assert shrink(starcoder2("model.window=4096"), 1, 1, 1).model.window >= 16
    assert shrink(starcoder2("model.window=1"), 1, 1, 1).model.window == 2
    assert shrink(starcoder("model.hidden=6144"), 1, 1, 1).model.window is None


@pytest.mark.parametrize("text", ["2x2", "axbxc", "2x0x1", ""])
def test_a_wrong_layout_is_refused(text: str) -> None:
    with pytest.raises(MegacodeError, match="must be TPxPPxDP"):
        Layout.parse(text)


def test_the_command_answers_in_json_and_exit_code() -> None:
    command = [sys.executable, "-m", "megacode", "verify", "examples/tiny_cpu.toml", "--layouts", "2x1x1", "--json"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    (verdict,) = json.loads(ended.stdout)
    assert verdict["findings"] == [] and verdict["gradient_error"] < 1e-5
