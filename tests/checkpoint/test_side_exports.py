"""Exports beside training: one at a time, never in the way, of what was linked, with every failure told."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from hub_files import BIGCODE, write_hub

from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
from megacode.checkpoint.side_exports import SideExports


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of weights."""
    write_hub(tmp_path / "hub", torch.bfloat16, **BIGCODE)
    return import_model(tmp_path / "hub", tmp_path / "base", ImportOptions(compare=False)).folder


def stub(folder: Path, body: str) -> str:
    """A program that stands in for Python, and is called as `python -m megacode export SOURCE --out OUT`."""
    path = folder / "stub.py"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\nsource, out = sys.argv[4], sys.argv[6]\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_checkpoint_that_is_removed_meanwhile_is_exported(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    exports = SideExports(tmp_path / "run", 2, said.append)
    exports.committed(base, 3)
    began = time.perf_counter()
    exports.committed(base, 4)
    stalled = time.perf_counter() - began
    shutil.rmtree(base)
    exports.finish()
    assert said == [f"exported {tmp_path / 'run' / 'exports' / 'step-00000004'}"]
    assert stalled < 0.5
    original, made = (folder / "model.safetensors" for folder in (tmp_path / "hub", Path(said[0].split()[1])))
    assert made.stat().st_size > 0 and sorted(path.name for path in made.parent.parent.iterdir()) == ["step-00000004"]
    import safetensors.torch

    one, other = safetensors.torch.load_file(original), safetensors.torch.load_file(made)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_runs_one_waits_and_the_rest_is_left_out(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    body = f"""
while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
assert os.path.isfile(source + "/manifest.json") and os.getpriority(os.PRIO_PROCESS, 0) == 19
os.makedirs(out)"""
    exports = SideExports(tmp_path / "run", 1, said.append, stub(tmp_path, body))
    exports.committed(base, 1)
    while not (tmp_path / "run" / "exports" / ".linked-00000001").exists() or exports._waiting:
        time.sleep(0.01)
    for step in (2, 3, 4):
        exports.committed(base, step)
    (tmp_path / "go").touch()
    exports.finish()
    made = [f"exported {tmp_path / 'run' / 'exports' / f'step-{step:08d}'}" for step in (1, 4)]
    assert [line for line in said if line.startswith("exported")] == made
    assert [line.split()[3] for line in said if "left out" in line] == ["2", "3"]
    assert not list((tmp_path / "run" / "exports").glob(".*"))


def test_a_failure_is_told_and_the_next_one_runs(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    python = stub(tmp_path, "if '00000001' in out: sys.exit('the disk is full')\nos.makedirs(out)")
    exports = SideExports(tmp_path / "run", 1, said.append, python)
    exports.committed(tmp_path / "no checkpoint", 0)
    exports.committed(base, 1)
    exports.finish()
    exports.committed(base, 2)
    exports.finish()
    exports = SideExports(tmp_path / "run", 1, said.append, str(tmp_path / "no python"))
    exports.committed(base, 3)
    exports.finish()
    assert [line.partition(":")[0] for line in said[:2]] == ["export of step 0 failed", "export of step 1 failed"]
    assert "the disk is full" in said[1] and said[2].startswith("exported") and "step 3 failed" in said[3]
    assert not list((tmp_path / "run" / "exports").glob(".*"))


def test_a_run_that_must_stop_does_not_wait(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    exports = SideExports(tmp_path / "run", 1, said.append, stub(tmp_path, "time.sleep(60)"))
    exports.committed(base, 1)
    while exports._process is None:
        time.sleep(0.01)
    exports.committed(base, 2)
    began = time.monotonic()
    exports.finish(wait=False)
    assert time.monotonic() - began < 10
    assert sorted(line.split()[3] for line in said) == ["1", "2"] and all("asked to stop" in line for line in said)


def test_nothing_is_done_where_nothing_is_due(base: Path, tmp_path: Path) -> None:
    exports = SideExports(tmp_path / "run", 0)
    exports.committed(base, 4)
    exports.finish()
    assert not (tmp_path / "run").exists() and not exports.is_due(4)
