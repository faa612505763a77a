"""Promise 6: saving goes on beside training, a failure is told and never called saved, and a folder has one owner."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disk_run import disk_config, losses, rows
from rankless import optimizers_of
from tiny import tiny_config
from watched_saves import full_disk, take_over_at_step_4

from megacode.checkpoint.errors import CheckpointError, Fenced
from megacode.checkpoint.fence import Fence
from megacode.checkpoint.folders import aside_folder, committed, find_checkpoint, prune
from megacode.checkpoint.manifest import Manifest, RunState
from megacode.checkpoint.read import verify
from megacode.checkpoint.save import announce_failure, collect_parts
from megacode.checkpoint.saver import Saver
from megacode.config.schema import RunConfig
from megacode.parallel.groups import single_rank
from megacode.prove.ranks import RankFailure, run_ranks


def steps_of(folder: Path) -> list[int]:
    """The steps that have a checkpoint."""
    return [int(path.name.removeprefix("step-")) for path in committed(folder)]


def alone(folder: Path, **checkpoint: Any) -> tuple[Saver, Fence, RunConfig]:
    """The saver of a run of one process."""
    config = tiny_config(checkpoint={"folder": str(folder), **checkpoint})
    (_, optimizer), fence = optimizers_of(config)[0], Fence.claim(folder)
    return Saver(folder, optimizer, single_rank(), config.checkpoint, 5.0, fence), fence, config


def state_at(step: int) -> RunState:
    """What is said of a step."""
    return RunState(step, 0, {}, "fingerprint")


@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_is_the_state_when_save_was_called(background: bool, tmp_path: Path) -> None:
    """Steps that follow at once don't reach into a checkpoint that is still being written."""
    config = tiny_config(checkpoint={"folder": str(tmp_path), "background": background})
    (_, optimizer), fence = optimizers_of(config)[0], Fence.claim(tmp_path)
    saver = Saver(tmp_path, optimizer, single_rank(), config.checkpoint, 5.0, fence)
    expected = optimizer.state["master"].clone()
    may_go_on = threading.Event()

    def slow_state() -> RunState:
        assert may_go_on.wait(5.0) or not background
        return state_at(1)

    if not background:
        may_go_on.set()
    saver.save(1, slow_state)
    assert steps_of(tmp_path) == ([] if background else [1])
    optimizer.state["master"].zero_()
    may_go_on.set()
    saver.finish()
    optimizer.state["master"].copy_(expected)
    assert steps_of(tmp_path) == [1]
    reader = saver_reader(tmp_path)
    for held in optimizer.held():
        stored = reader.tensor("master", held.spec.name).reshape(-1)
        assert stored.equal(optimizer.in_shard(optimizer.state["master"], held.elements))
    (outcome,) = saver.outcomes()
    assert outcome.failure == "" and outcome.bytes == reader.manifest.bytes
    assert (outcome.stall_seconds >= outcome.write_seconds) == (not background)


def saver_reader(folder: Path) -> Any:
    """A reader of the newest checkpoint."""
    from megacode.checkpoint.read import CheckpointReader

    return CheckpointReader(find_checkpoint(folder))


def test_an_older_start_that_wakes_up_cannot_commit(tmp_path: Path) -> None:
    older, fence, _ = alone(tmp_path)
    older.save(1, lambda: state_at(1))
    older.finish()
    newer = Fence.claim(tmp_path)
    assert (newer.owner.run, newer.owner.restart) == (fence.owner.run, fence.owner.restart + 1)
    older.save(2, lambda: state_at(2))
    with pytest.raises(CheckpointError, match=r"start 1 of run .* this start \(0, .* must not save there"):
        older.finish()
    assert older.fenced and steps_of(tmp_path) == [1]
    assert [outcome.failure != "" for outcome in older.outcomes()] == [False, True]


def test_taken_over_between_writing_and_committing_it_does_not_commit(tmp_path: Path) -> None:
    older, _, _ = alone(tmp_path)

    def taken_over_meanwhile() -> RunState:
        Fence.claim(tmp_path)
        return state_at(1)

    older.save(1, taken_over_meanwhile)
    with pytest.raises(CheckpointError, match="must not save there"):
        older.finish()
    assert older.fenced and steps_of(tmp_path) == []
    assert not list(tmp_path.glob(".saving*")), "nothing half-written stays"


def test_a_run_that_was_taken_over_stops_with_the_reason_on_every_rank(data: Path, tmp_path: Path) -> None:
    config = saving_often(data, tmp_path)
    with pytest.raises(RankFailure, match=r"the last checkpoint was not saved: rank 0: .* must not save there"):
        run_ranks(2, take_over_at_step_4, config)
    assert max(steps_of(tmp_path)) in (2, 3)
    assert 4 <= len(losses(tmp_path)) < config.train.steps, "it stopped by itself"
    assert not (tmp_path / "FINISHED").exists()


def saving_often(data: Path, folder: Path, **checkpoint: Any) -> RunConfig:
    """A run of two ranks that saves at every step."""
    save = {"folder": str(folder), "every": 1, "keep": 99, **checkpoint}
    return disk_config(data, folder, parallel={"dp": 2}, train={"steps": 8, "validate_every": 0}, checkpoint=save)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_writer_that_fails_is_told_and_training_goes_on(broken: int, data: Path, tmp_path: Path) -> None:
    config = saving_often(data, tmp_path)
    assert run_ranks(2, full_disk, config, broken, (3, 6)) == [True] * 2
    told = {row["step"]: row["failure"] for row in rows(tmp_path, "checkpoint")}
    assert [step for step, failure in told.items() if failure] == [3, 6]
    assert "No space left on device" in told[3] and (broken == 0 or "rank 1 could not write its part" in told[3])
    assert steps_of(tmp_path) == [1, 2, 4, 5, 7, 8] and len(losses(tmp_path)) == 8
    for folder in committed(tmp_path):
        verify(folder, Manifest.read(folder))
    assert not list(tmp_path.glob(".saving*")), "what failed is removed"


def test_a_run_whose_last_save_fails_ends_with_an_error(data: Path, tmp_path: Path) -> None:
    config = saving_often(data, tmp_path, background=False)
    with pytest.raises(RankFailure, match="the last checkpoint was not saved: rank 0: rank 1 could not write its part"):
        run_ranks(2, full_disk, config, 1, (8,))
    assert steps_of(tmp_path)[-1] == 7 and not (tmp_path / "FINISHED").exists()


def test_a_rank_that_says_nothing_is_named(tmp_path: Path) -> None:
    aside = aside_folder(tmp_path, 1, 5)
    aside.mkdir()
    with pytest.raises(CheckpointError, match="rank 0 has not written its part within 0 s"):
        collect_parts(aside, 2, 0.0, lambda: None)
    announce_failure(aside, 1, "the cable is out")
    with pytest.raises(CheckpointError, match="rank 1 could not write its part: the cable is out"):
        collect_parts(aside, 2, 9.0, lambda: None)


def test_a_folder_that_cannot_be_written_is_a_failure_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, _, _ = alone(tmp_path / "run")
    monkeypatch.setattr(Path, "mkdir", _refuse)
    saver.save(1, lambda: state_at(1))
    with pytest.raises(CheckpointError, match="the last checkpoint was not saved: PermissionError"):
        saver.finish()


def _refuse(*arguments: Any, **options: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Empty checkpoints of the steps 10, 20 ... 100."""
    for step in range(10, 101, 10):
        (tmp_path / f"step-{step:08d}").mkdir()
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_the_newest_and_every_nth_are_kept(folders: Path) -> None:
    prune(folders, 80, keep=2, keep_every=30)
    assert steps_of(folders) == [30, 60, 70, 80, 90, 100], "later ones are from before the run went back"
    prune(folders, 100, keep=1, keep_every=0)
    assert steps_of(folders) == [100]


def test_unfinished_folders_are_no_checkpoints(tmp_path: Path) -> None:
    aside_folder(tmp_path, 7, 1).mkdir()
    (tmp_path / ".dropping-step-00000003").mkdir()
    assert committed(tmp_path) == []
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run folder"):
        find_checkpoint(tmp_path)


def test_the_owner_is_checked_while_the_folder_is_locked(tmp_path: Path) -> None:
    first, second = Fence.claim(tmp_path), Fence.claim(tmp_path)
    with second.held():
        pass
    with pytest.raises(Fenced, match="now belongs to start 1"), first.held():
        pass
    (tmp_path / "owner.json").write_text("{")
    with pytest.raises(Fenced, match="now belongs to nobody"):
        second.check()
