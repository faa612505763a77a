"""Killed anywhere and started again, a preparation leaves the bytes of one that was never disturbed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import killed_run
import pytest
from corpus import many_files, result_of
from suicide import Suicide

from megacode.data.errors import DataError
from megacode.data.prepare import options_of, prepare
from megacode.data.prepare.executors.local import LocalExecutor
from megacode.data.prepare.stages import publish

BUCKET_BYTES = 20_000
MOMENTS = [
    "work/*/plan.json",
    "work/*/data/collect-*/*.zst",
    "work/*/data/collect-*/00002.stats.json",
    "work/*/data/unique/00001.stats.json",
    "work/*/data/pairs/00003.npy",
    "work/*/data/lost.npy",
    "work/*/data/finished/train/00001.jsonl.zst",
    "work/*/data/finished/validation/00003.jsonl.zst",
    "work/*/data/manifest.json",
    "train",
    "manifest.json",
]


def table(source: Path, out: Path, workers: int) -> dict[str, Any]:
    executor = {"tasks": 4, "workers": workers}
    return {"sources": [{"path": str(source)}], "out": str(out), "executor": executor}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_files(tmp_path_factory.mktemp("restart") / "code")


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    killed_run.finish(killed_run.start(folder, table(source, folder / "out", 1), BUCKET_BYTES))
    result = result_of(folder / "out")
    assert len(result) > 8
    return result


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_every_stage(workers: int, source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    kills = 0
    for number, moment in enumerate(MOMENTS):
        out = tmp_path / f"out-{number}"
        kills += killed_run.kill_when(
            killed_run.start(tmp_path, table(source, out, workers), BUCKET_BYTES), out, moment
        )
        killed_run.finish(killed_run.start(tmp_path, table(source, out, workers), BUCKET_BYTES))
        assert result_of(out) == undisturbed, moment
    assert kills >= len(MOMENTS) - 3  # the last ones are over in a moment


def test_killed_again_and_again(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Every start is killed a little later, in the same folder, until one comes through."""
    out = tmp_path / "out"
    for moment in (
        "work/*/data/collect-*/00001.stats.json",
        "work/*/data/unique/00002.stats.json",
        "work/*/data/lost.npy",
    ):
        assert killed_run.kill_when(killed_run.start(tmp_path, table(source, out, 1), BUCKET_BYTES), out, moment)
    killed_run.finish(killed_run.start(tmp_path, table(source, out, 1), BUCKET_BYTES))
    assert result_of(out) == undisturbed


def test_another_number_of_tasks_after_a_kill(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out, moment = tmp_path / "out", "work/*/data/collect-*/00001.stats.json"
    assert killed_run.kill_when(killed_run.start(tmp_path, table(source, out, 1), BUCKET_BYTES), out, moment)
    other = {**table(source, out, 1), "executor": {"tasks": 3, "workers": 1}}
    killed_run.finish(killed_run.start(tmp_path, other, BUCKET_BYTES))
    assert result_of(out) == undisturbed


def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    """datatrove's own pool would wait for ever for the task that the process took with it."""
    executor = LocalExecutor([Suicide()], tasks=2, workers=2, logging_dir=str(tmp_path))
    with pytest.raises(DataError, match="a process of the preparation was killed, perhaps for want of memory"):
        executor.run_tasks(lambda count: None)


@pytest.mark.slow
def test_a_kill_leaves_no_process_behind(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = killed_run.start(tmp_path, table(source, out, 2), BUCKET_BYTES)
    until = time.monotonic() + 60
    while not list(out.glob("work/*/logs/collect-4/logs/*.log")) and time.monotonic() < until:
        time.sleep(0.001)
    family = killed_run.children(process.pid)
    assert len(family) >= 3
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(map(killed_run.alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(killed_run.alive, family))


@pytest.mark.parametrize("share", [0.03, 0.0])
@pytest.mark.parametrize("survives", [0, 1])
def test_interrupted_while_publishing(
    survives: int, share: float, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one of the two sets has been moved, or none, also when a document had to change sides."""
    expected = tmp_path / "expected"
    prepare(options_of(source, expected, validation_share=share))
    real, moved = publish._place, []

    def place(*arguments: Path) -> None:
        if len(moved) == survives:
            raise KeyboardInterrupt
        moved.append(arguments)
        real(*arguments)

    monkeypatch.setattr(publish, "_place", place)
    with pytest.raises(KeyboardInterrupt):
        prepare(options_of(source, tmp_path / "out", validation_share=share))
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.undo()
    assert not prepare(options_of(source, tmp_path / "out", validation_share=share)).reused
    assert result_of(tmp_path / "out") == result_of(expected)
