"""A run makes Hugging Face folders of its weights beside training, and they are those of the checkpoints."""

from __future__ import annotations

from pathlib import Path

from disk_run import disk_config, losses, train_rank
from safetensors.torch import load_file

from megacode.checkpoint.folders import committed
from megacode.checkpoint.huggingface.export import export
from megacode.prove.ranks import run_ranks


def test_a_run_exports_every_third_step_and_computes_the_same(data: Path, tmp_path: Path) -> None:
    quiet = {"steps": 6, "validate_every": 0}
    plain, exporting = tmp_path / "plain", tmp_path / "exporting"
    run_ranks(2, train_rank, disk_config(data, plain, train=quiet, parallel={"pp": 2}))
    checkpoint = {"folder": str(exporting), "every": 2, "keep": 1, "export_every": 3}
    run_ranks(2, train_rank, disk_config(data, exporting, train=quiet, parallel={"pp": 2}, checkpoint=checkpoint))
    assert losses(exporting) == losses(plain)
    made = sorted(path.name for path in (exporting / "exports").iterdir())
    assert "step-00000006" in made and set(made) <= {"step-00000003", "step-00000006"}
    (last,) = committed(exporting)
    expected = load_file(export(last, tmp_path / "model", compare=False).folder / "model.safetensors")
    found = load_file(exporting / "exports" / "step-00000006" / "model.safetensors")
    assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)
    assert (exporting / "exports" / "step-00000006" / "tokenizer.json").is_file()
