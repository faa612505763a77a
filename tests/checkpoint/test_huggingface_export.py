"""Exported folders: whole or not at all, only of models that have a twin, and by one process at a time."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hub_files import BIGCODE, STARCODER2, write_for_ever, write_hub
from safetensors import safe_open

from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.huggingface import export as exporting
from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
from megacode.checkpoint.huggingface.names import twin_of
from megacode.config.schema import ModelConfig
from megacode.data.tokenizers.tokenizer import train_bpe


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of weights, imported from bf16 without a tokenizer."""
    write_hub(tmp_path / "hub", torch.bfloat16, **BIGCODE)
    return import_model(tmp_path / "hub", tmp_path / "base", ImportOptions(compare=False)).folder


def export(base: Path, out: Path, **options: Any) -> exporting.ExportReport:
    """Export without asking transformers."""
    return exporting.export(base, out, compare=False, **options)


def test_models_without_a_twin_are_refused_with_all_reasons() -> None:
    with pytest.raises(CheckpointError, match=r"1 or 4 key-value heads, this model 2, and no sliding window.*of 5"):
        twin_of(ModelConfig(**{**BIGCODE, "kv_heads": 2, "window": 5}))
    assert twin_of(ModelConfig(**STARCODER2)).MODEL_TYPE == "starcoder2"


def test_nothing_is_written_for_a_model_without_a_twin(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacode.checkpoint.huggingface.bigcode.lacks", lambda model: ["no such thing"])
    with pytest.raises(CheckpointError, match="no such thing; this model cannot be written for Hugging Face"):
        export(base, tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists()


def test_the_files_of_an_export(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SHARD_BYTES", 8_000)
    report = export(base, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == 2 * report.parameters
    for file in files:
        assert (tmp_path / "model" / file).stat().st_size < 8_000 + 4_000, "two tensors only where they fit"
        with safe_open(tmp_path / "model" / file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert all(index["weight_map"][name] == file for name in opened.keys())  # noqa: SIM118
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    assert not report.tokenizer and not (tmp_path / "model" / "tokenizer.json").exists()


def test_another_type_is_rounded_once(base: Path, tmp_path: Path) -> None:
    exact = safetensors.torch.load_file(tmp_path / "hub" / "model.safetensors")
    for dtype, kind in (("fp32", torch.float32), ("fp16", torch.float16), (None, torch.bfloat16)):
        report = export(base, tmp_path / "model", dtype=dtype)
        found = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
        assert all(torch.equal(found[name], exact[name].to(kind)) for name in exact) and found.keys() == exact.keys()
        assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == report.dtype
    with pytest.raises(CheckpointError, match="--dtype int8: must be one of"):
        export(base, tmp_path / "model", dtype="int8")


def test_a_tokenizer_can_be_given_to_a_model_that_came_without(base: Path, tmp_path: Path) -> None:
    words = train_bpe(["def main(): return 1\n" * 20], 300, "starcoder")
    words.save(tmp_path / "words")
    report = export(base, tmp_path / "model", tokenizer=tmp_path / "words")
    assert report.tokenizer == words.fingerprint and (tmp_path / "model" / "tokenizer.json").is_file()


def test_damage_is_told_and_the_old_export_stays(base: Path, tmp_path: Path) -> None:
    export(base, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    path = base / "imported_00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damage, match=r"imported_00000\.safetensors"):
        export(base, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_does_not_fit_into_memory_is_not_compared_and_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacode.checkpoint.huggingface.probe._available_bytes", lambda: 1000)
    report = exporting.export(base, tmp_path / "model")
    assert report.largest_difference is None
    assert "logits NOT compared: the whole model in fp32 needs 0 GB, and 0 GB are free" in report.comparison


def test_a_folder_with_other_things_is_not_replaced(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match="nothing that may be replaced"):
        export(base, tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    assert export(base, tmp_path / "empty").folder.is_dir()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


@contextmanager
def another_writer(out: Path) -> Iterator[Any]:
    """A process that writes `out` while the block runs, and is then killed."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=write_for_ever, args=(out, ready))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_two_processes_do_not_write_one_folder_and_a_killed_one_does_no_harm(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with another_writer(out), pytest.raises(CheckpointError, match="another process is writing it right now"):
        export(base, out)
    assert not out.exists() and (tmp_path / ".model.partial" / "half").exists()
    export(base, out)
    assert not (out / "half").exists() and not (tmp_path / ".model.partial").exists()
