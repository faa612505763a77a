"""What resume refuses, and what it says: damage on any rank, other data, two copies that differ, weights alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_run import disk_config, losses, rows, train_rank
from watched_saves import differing_copies, train_and_listen, train_rank_with_other_samples

from megacode.checkpoint.folders import committed
from megacode.checkpoint.manifest import Manifest
from megacode.checkpoint.rewrite import convert
from megacode.config.schema import RunConfig
from megacode.prove.ranks import RankFailure, run_ranks

STEPS = 6


def config_of(data: Path, folder: Path, parallel: dict | None = None, **sections: Any) -> RunConfig:
    """A run that saves at every other step."""
    train = {"steps": STEPS, "validate_every": 0, **sections.pop("train", {})}
    save = {"folder": str(folder), "every": 2, "keep": 9, **sections.pop("checkpoint", {})}
    return disk_config(data, folder, parallel=parallel or {}, train=train, checkpoint=save, **sections)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two stages that went to its end."""
    folder = tmp_path_factory.mktemp("finished")
    run_ranks(2, train_rank, config_of(data, folder, {"pp": 2}))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def damage(folder: Path, name: str) -> None:
    """Flip a bit of a file's last number."""
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)


def test_where_a_run_stands_is_written_down(finished: Path) -> None:
    manifests = [Manifest.read(folder) for folder in committed(finished)]
    states = [manifest.state for manifest in manifests]
    assert [state.step for state in states] == [2, 4, 6] and [state.cursors for state in states] == [
        {"train": 8 * step} for step in (2, 4, 6)
    ]
    assert len({state.next_batch for state in states}) == 3
    assert len({state.run for state in states}) == 1 and states[0].restart == 0
    assert states[0].layout["pp"] == 2 and states[0].seeds == {"data": 1234, "train": 1234}
    assert [row["step"] for row in rows(finished, "checkpoint")] == [2, 4, 6]


def test_each_start_is_counted(run: Path, data: Path) -> None:
    run_ranks(1, train_rank, config_of(data, run, train={"steps": STEPS + 1}))
    before, after = (Manifest.read(committed(run)[place]).state for place in (-2, -1))
    assert (after.run, after.restart) == (before.run, before.restart + 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_that_one_rank_meets_sends_all_to_the_checkpoint_before(
    rank: int, run: Path, finished: Path, data: Path
) -> None:
    damage(committed(run)[-1], f"rank_0000{rank}.safetensors")
    said, nothing = run_ranks(2, train_and_listen, config_of(data, run, {"pp": 2}))
    assert f"passing over step-00000006: rank {rank}: " in said and f"rank_0000{rank}.safetensors: exp_avg_sq/" in said
    assert "saved step 6: " in said and nothing == ""
    assert rows(run, "start")[-1]["step"] == 4 and losses(run) == losses(finished)


def test_nothing_begins_anew_where_every_checkpoint_is_damaged(run: Path, data: Path) -> None:
    for folder in committed(run):
        damage(folder, "rank_00000.safetensors")
    with pytest.raises(RankFailure, match="none of its 3 checkpoints is sound"):
        run_ranks(1, train_rank, config_of(data, run))


def test_a_checkpoint_under_another_name_is_not_taken(run: Path, finished: Path, data: Path) -> None:
    shutil.rmtree(committed(run)[-1])
    shutil.copytree(committed(run)[0], run / "step-00000006")
    run_ranks(2, train_rank, config_of(data, run, {"pp": 2}))
    assert rows(run, "start")[-1]["step"] == 4 and losses(run) == losses(finished)


def test_other_data_is_refused_with_what_changed(run: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(committed(run)[-1])
    with pytest.raises(RankFailure, match=r"the data changed: batch 5 .* data\.packing was 'concatenate', is 'best"):
        run_ranks(2, train_rank_with_other_samples, config_of(data, run, {"pp": 2}), "best-fit")
    with pytest.raises(RankFailure, match="no setting did, so the shards hold other tokens"):
        run_ranks(2, train_rank_with_other_samples, config_of(data, run, {"pp": 2}), "concatenate")


def test_shards_made_from_other_files_are_refused(run: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for ending in (".bin", ".idx", ".json"):
        shutil.copy(data / f"validation{ending}", tmp_path / "data" / f"train{ending}")
    with pytest.raises(RankFailure, match="the data changed: batch 7 was to be"):
        run_ranks(1, train_rank, config_of(tmp_path / "data", run, train={"steps": STEPS + 1}))


def test_the_same_data_elsewhere_and_another_layout_go_on(run: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "moved")
    run_ranks(2, train_rank, config_of(tmp_path / "moved", run, {"dp": 2}, train={"steps": STEPS + 1}))
    assert rows(run, "start")[-1]["step"] == STEPS and len(losses(run)) == STEPS + 1


def test_weights_alone_start_a_run_and_do_not_resume_one(run: Path, data: Path, tmp_path: Path) -> None:
    newest = committed(run)[-1]
    convert(newest, tmp_path / "weights", kinds=("master",))
    begun = config_of(
        data, tmp_path / "new", checkpoint={"folder": str(tmp_path / "new"), "init_from": str(tmp_path / "weights")}
    )
    run_ranks(1, train_rank, begun)
    assert rows(tmp_path / "new", "start")[0]["step"] == 0 and losses(tmp_path / "new")[0] < losses(run)[0]
    shutil.rmtree(newest)
    (tmp_path / "weights").rename(newest)
    with pytest.raises(RankFailure, match="it holds weights only, no exp_avg and exp_avg_sq"):
        run_ranks(1, train_rank, config_of(data, run))


def test_init_from_something_damaged_is_refused_by_name(run: Path, data: Path, tmp_path: Path) -> None:
    newest = committed(run)[-1]
    content = bytearray((newest / "rank_00001.safetensors").read_bytes())
    content[len(content) // 6] ^= 1  # in the weights
    (newest / "rank_00001.safetensors").write_bytes(content)
    begun = config_of(
        data, tmp_path / "new", {"dp": 2}, checkpoint={"folder": str(tmp_path / "new"), "init_from": str(newest)}
    )
    with pytest.raises(RankFailure, match=r"rank_00001\.safetensors: master/\S+ is damaged"):
        run_ranks(2, train_rank, begun)


def test_two_copies_of_the_embedding_that_differ_are_refused(run: Path, data: Path) -> None:
    with pytest.raises(RankFailure, match=r"the two copies of embedding\.tokens\.weight differ"):
        run_ranks(2, differing_copies, config_of(data, run, {"pp": 2}, train={"steps": STEPS + 1}))


def test_a_checkpoint_is_kept_for_ever_at_every_nth_step(data: Path, tmp_path: Path) -> None:
    keep = {"folder": str(tmp_path), "every": 1, "keep": 1, "keep_every": 3}
    run_ranks(1, train_rank, config_of(data, tmp_path, checkpoint=keep, train={"steps": 8}))
    assert [folder.name[-1] for folder in committed(tmp_path)] == ["3", "6", "8"]
    assert torch.tensor(losses(tmp_path)).isfinite().all()
