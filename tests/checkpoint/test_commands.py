"""`megacode checkpoint`: what each command says, in words and as JSON, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rankless import save_rankless
from tiny import tiny_config
from typer.testing import CliRunner

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.read import CheckpointReader
from megacode.cli.checkpoint import checkpoint_app

PARALLEL = {"tp": 2, "pp": 2}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the steps 10 and 20, from other seeds."""
    folder = tmp_path / "run"
    for step, seed in ((10, 1), (20, 2)):
        config = tiny_config(parallel=PARALLEL, train={"seed": seed})
        save_rankless(folder / f"step-{step:08d}", config, step)
    (folder / ".saving-00000030-00000000000000ff").mkdir()
    return folder


def call(*words: object) -> tuple[int, str]:
    """Exit code and standard output of a command."""
    answer = CliRunner().invoke(checkpoint_app, [str(word) for word in words])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.exit_code, answer.stdout


def call_json(*words: object) -> tuple[int, Any]:
    """Exit code and parsed output with --json."""
    code, text = call(*words, "--json")
    return code, json.loads(text)


def damage(folder: Path, name: str = "rank_00001.safetensors") -> None:
    """Flip a bit in the last tensor of a file."""
    content = bytearray((folder / name).read_bytes())
    content[-6] ^= 1
    (folder / name).write_bytes(content)


def test_ls_lists_the_checkpoints_and_what_is_wrong_with_them(run: Path) -> None:
    code, found = call_json("ls", run)
    assert code == 0 and [one["step"] for one in found] == [10, 20] and not any(one["problem"] for one in found)
    (run / "step-00000010" / "rank_00000.safetensors").unlink()
    (run / "step-00000020" / "manifest.json").write_text("{")
    code, text = call("ls", run)
    assert code == 1 and "rank_00000.safetensors: is missing" in text and "manifest.json: is not JSON" in text
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run folder"):
        call("ls", run.parent)


def test_show_says_what_is_in_one(run: Path) -> None:
    code, found = call_json("show", run)
    assert code == 0 and found["state"]["step"] == 20 and found["kinds"] == ["master", "exp_avg", "exp_avg_sq"]
    by_name = {one["name"]: one for one in found["tensors"]}
    assert by_name["layers.0.mlp.up.weight"]["shape"] == [192, 48] and by_name["layers.0.mlp.up.weight"]["pieces"] == 2
    assert found["parameters"] * 12 == sum(one["bytes"] for one in found["tensors"])
    code, text = call("show", run / "step-00000010")
    assert code == 0 and "model.hidden" in text and "layers.1.mlp.down.weight" in text and "step 10" in text


def test_verify_names_every_damaged_tensor(run: Path) -> None:
    code, found = call_json("verify", run)
    assert code == 0 and found["sound"] and found["files"] == 4
    for name in ("rank_00001.safetensors", "rank_00002.safetensors"):
        damage(run / "step-00000020", name)
    code, found = call_json("verify", run)
    assert code == 1 and [one["file"] for one in found["findings"]] == [
        "rank_00001.safetensors",
        "rank_00002.safetensors",
    ]
    assert all(one["tensor"].startswith("exp_avg_sq/") for one in found["findings"])
    code, text = call("verify", run)
    assert code == 1 and "is DAMAGED" in text
    assert call("verify", run / "step-00000010")[0] == 0


def test_a_lost_file_is_one_finding(run: Path) -> None:
    (run / "step-00000020" / "rank_00003.safetensors").unlink()
    code, found = call_json("verify", run)
    assert code == 1 and [one["file"] for one in found["findings"]] == ["rank_00003.safetensors"]


def test_convert_and_diff_agree_that_nothing_changed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    code, found = call_json("convert", run, "--out", out, "--file-gigabytes", 0.001)
    assert code == 0 and found["files"] >= 1 and CheckpointReader(out).manifest.state.step == 20
    code, found = call_json("diff", run, out)
    assert code == 0 and found["equal"] and found["state"] == []
    code, text = call("convert", run, "--out", tmp_path / "weights", "--weights-only", "--dtype", "BF16")
    assert code == 0 and "master of step 20" in text
    code, found = call_json("diff", run, tmp_path / "weights")
    assert code == 1 and {one["kind"] for one in found["tensors"]} == {"master"}
    assert all(one["largest"] <= 2**-8 * one["scale"] for one in found["tensors"])
    with pytest.raises(CheckpointError, match="F16 is for weights alone"):
        call("convert", run, "--out", tmp_path / "none", "--dtype", "F16")


def test_diff_says_settings_and_largest_differences(run: Path) -> None:
    code, found = call_json("diff", run / "step-00000010", run / "step-00000020")
    assert code == 1 and not found["equal"]
    assert ["config.train.seed", 1, 2] in found["state"] and ["step", 10, 20] in found["state"]
    one, other = (CheckpointReader(run / f"step-000000{step}0") for step in (1, 2))
    by_name = {(tensor["kind"], tensor["name"]): tensor for tensor in found["tensors"]}
    name = "layers.0.mlp.up.weight"
    expected = (one.tensor("master", name) - other.tensor("master", name)).abs().max()
    assert torch.tensor(by_name["master", name]["largest"]) == expected
    assert by_name["master", "final_norm.weight"]["equal"]
    code, text = call("diff", run / "step-00000010", run / "step-00000020")
    assert code == 1 and "config.train.seed: 1 -> 2" in text and f"master/{name}: differs by" in text


def test_conversion_of_something_damaged_leaves_nothing(run: Path, tmp_path: Path) -> None:
    damage(run / "step-00000020")
    with pytest.raises(CheckpointError, match=r"rank_00001\.safetensors: exp_avg_sq/"):
        call("convert", run, "--out", tmp_path / "converted")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_the_bench_measures_both_ways(tmp_path: Path) -> None:
    code, found = call_json("bench", "--gigabytes", 0.01, "--rounds", 1, "--folder", tmp_path)
    assert code in (0, 1) and found["bytes"] > 1e8 and 0 < found["stall"] < found["synchronous"]
    assert not list(tmp_path.iterdir())
