"""Promise 2: stopping changes nothing. Promise 6: never half a checkpoint."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from damaged_checkpoint import change_manifest
from disk_run import disk_config, losses, rows, train_rank

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import committed
from megacode.checkpoint.manifest import Manifest
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.restore import check_resumable
from megacode.config.schema import RunConfig
from megacode.optim.loss_scale import Scaling
from megacode.prove.ranks import RankFailure, run_ranks, started_ranks

LAYOUT = {"tp": 2, "pp": 2}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_ranks(4, train_rank, disk_config(data, folder, parallel=LAYOUT)) == [True] * 4
    return folder


def test_validation_is_split_by_kind(undisturbed: Path) -> None:
    validations = rows(undisturbed, "validation")
    assert [row["step"] for row in validations] == [8, 16]
    assert all(len({row["left_to_right"], row["psm"], row["spm"]}) == 3 for row in validations)
    assert validations[1]["left_to_right"] < validations[0]["left_to_right"]


@pytest.mark.parametrize("attempt", range(2))
def test_killed_and_resumed_is_bit_for_bit_the_same(
    attempt: int, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    config = disk_config(data, tmp_path, parallel=LAYOUT)
    at = random.randint(2, config.train.steps - 6)
    with started_ranks(4, train_rank, config):
        deadline = time.monotonic() + 60
        while len(losses(tmp_path)) < at and time.monotonic() < deadline:
            time.sleep(0.001)
    done = len(losses(tmp_path))
    assert at <= done < config.train.steps, f"killed at step {done}, meant to be {at}"
    assert run_ranks(4, train_rank, config) == [True] * 4
    assert losses(tmp_path) == losses(undisturbed), f"killed after step {done}"
    assert rows(tmp_path, "validation") == rows(undisturbed, "validation")
    assert not list(tmp_path.glob(".saving*")), "what the kill left half-written is cleaned up"


@pytest.mark.parametrize("layout", [{}, {"dp": 2, "tp": 2}, {"pp": 2, "order": "tp-pp-dp"}])
def test_another_layout_goes_on_from_the_checkpoint(
    layout: dict, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(committed(folder)[-1])
    config = disk_config(data, folder, parallel=layout)
    run_ranks(config.parallel.world_size, train_rank, config)
    np.testing.assert_allclose(losses(folder), losses(undisturbed), rtol=1e-5)


def test_a_head_of_its_own_goes_on_in_another_layout(data: Path, tmp_path: Path) -> None:
    """StarCoder2's decoder: what one process wrote, two stages read, and the other way round."""
    model = {"positions": "rotary", "kv_heads": 2, "tied": False, "window": 9}
    expected = disk_config(data, tmp_path / "expected", model=model, train={"validate_every": 0})
    run_ranks(1, train_rank, expected)
    for steps, parallel in ((6, {"pp": 2}), (11, {}), (16, {"pp": 2, "tp": 2})):
        stop = {"steps": steps, "validate_every": 0}
        config = disk_config(data, tmp_path / "run", model=model, parallel=parallel, train=stop, optim={"lr_decay": 16})
        run_ranks(config.parallel.world_size, train_rank, config)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "expected"), rtol=1e-5)


def test_a_checkpoint_from_before_a_key_goes_on_with_its_default(undisturbed: Path, data: Path) -> None:
    reader = CheckpointReader(committed(undisturbed)[-1])
    state = reader.manifest.state
    for key in ("positions", "rope_theta", "window", "tied"):
        del state.config["model"][key]
    check_resumable(reader, disk_config(data, undisturbed), state.tokenizer)
    with pytest.raises(CheckpointError, match=r"model\.tied was True, is False"):
        check_resumable(reader, disk_config(data, undisturbed, model={"tied": False}), state.tokenizer)


def test_a_damaged_checkpoint_is_passed_over(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    damaged = next(committed(folder)[-1].glob("rank_00002*"))
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    run_ranks(4, train_rank, disk_config(data, folder, parallel=LAYOUT))
    assert rows(folder, "start")[-1]["step"] == 15, "resumed from the one before"
    assert losses(folder) == losses(undisturbed)


def test_only_the_newest_are_kept(undisturbed: Path) -> None:
    assert [folder.name for folder in committed(undisturbed)] == ["step-00000015", "step-00000016"]


def test_another_model_cannot_resume(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    config = disk_config(data, folder, model={"ffn": 64}, train={"global_batch": 16})
    with pytest.raises(RankFailure, match=r"model\.ffn was 192, is 64; train\.global_batch was 8, is 16"):
        run_ranks(1, train_rank, config)


def test_weights_of_another_run_start_a_fresh_one(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    init = {"folder": str(tmp_path), "init_from": str(committed(undisturbed)[-1])}
    run_ranks(1, train_rank, disk_config(data, tmp_path, checkpoint=init, train={"steps": 3}))
    assert rows(tmp_path, "start")[0]["step"] == 0
    assert losses(tmp_path)[0] < 0.95 * losses(undisturbed)[0]


FP16 = {"loss_scale": {"initial": 2.0**23, "growth_steps": 4}}  # overflows, shrinks and grows within 16 steps


def fp16_config(data: Path, folder: Path, steps: int = 16, **optim: object) -> RunConfig:
    """An fp16 run of two replicas; it saves every third step, and at the last."""
    train = {"precision": "fp16", "steps": steps, "validate_every": 0}
    own = {**FP16, "lr_decay": 16, "bucket_megabytes": 0.05, **optim}
    return disk_config(data, folder, train=train, optim=own, parallel={"dp": 2, "pp": 2})


def test_fp16_goes_on_bit_for_bit_with_its_loss_scale(data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_ranks(4, train_rank, fp16_config(data, whole))
    for steps in (5, 10, 16):
        run_ranks(4, train_rank, fp16_config(data, parts, steps))
    expected = rows(whole)
    assert len({row["loss_scale"] for row in expected}) > 2 and 0 < expected[-1]["skipped_steps"] < 10
    for key in ("loss", "grad_norm", "loss_scale", "skipped", "skipped_steps"):
        assert [row[key] for row in rows(parts)] == [row[key] for row in expected], key
    scaling = Manifest.read(committed(parts)[-1]).state.scaling
    assert scaling.skipped_steps == expected[-1]["skipped_steps"]
    assert scaling == Manifest.read(committed(whole)[-1]).state.scaling


def test_zero_stages_and_replicas_read_each_others_checkpoints(data: Path, tmp_path: Path) -> None:
    quiet = {"validate_every": 0}
    run_ranks(1, train_rank, disk_config(data, tmp_path / "expected", train=quiet))
    mixes = [
        ({"zero_stage": 0}, {"dp": 2}),
        ({}, {"dp": 4}),
        ({"zero_stage": 0, "bucket_megabytes": 0.05}, {"dp": 2, "tp": 2}),
    ]
    for steps, (optim, parallel) in zip((4, 8, 12), mixes, strict=True):
        config = disk_config(
            data, tmp_path / "run", train={**quiet, "steps": steps}, optim={"lr_decay": 16, **optim}, parallel=parallel
        )
        run_ranks(config.parallel.world_size, train_rank, config)
    run_ranks(1, train_rank, disk_config(data, tmp_path / "run", train=quiet))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "expected"), rtol=1e-5)


def test_a_checkpoint_from_before_loss_scales_has_scale_1(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(committed(undisturbed)[-1], folder)
    change_manifest(folder, lambda table: table["state"].pop("scaling"))
    assert Manifest.read(folder).state.scaling == Scaling()
