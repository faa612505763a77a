"""Killed at any moment, also in a save: the run goes on bit for bit, and no folder lies about being a checkpoint."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from disk_run import disk_config, losses, train_rank

from megacode.checkpoint.folders import committed
from megacode.checkpoint.manifest import Manifest
from megacode.checkpoint.read import verify
from megacode.config.schema import RunConfig
from megacode.prove.ranks import run_ranks, started_ranks

KILLS, STEPS, RANKS = 25, 10, 2


def config_of(data: Path, folder: Path, layout: int) -> RunConfig:
    """A run that saves at every step, so that it is nearly always saving; every third one without a thread."""
    parallel = ({"dp": 2}, {"tp": 2}, {"pp": 2})[layout % 3]
    save = {"folder": str(folder), "every": 1, "background": layout % 3 != 2}
    return disk_config(*(data, folder), parallel=parallel, train={"steps": STEPS, "validate_every": 0}, checkpoint=save)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The losses of the three uninterrupted runs."""
    curves = []
    for layout in range(3):
        folder = tmp_path_factory.mktemp("undisturbed")
        run_ranks(RANKS, train_rank, config_of(data, folder, layout))
        curves.append(losses(folder))
    return curves


def _kill_somewhere(config: RunConfig, folder: Path, draw: random.Random) -> None:
    """Start the run and kill it between its first step and its last."""
    step, pause = draw.randint(1, STEPS - 3), draw.uniform(0.0, 0.1)
    with started_ranks(RANKS, train_rank, config):
        deadline = time.monotonic() + 60
        while len(losses(folder)) < step and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(pause)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_goes_on_bit_for_bit(
    seed: int, data: Path, undisturbed: list[list[float]], tmp_path: Path
) -> None:
    draw, config = random.Random(seed), config_of(data, tmp_path, seed)
    _kill_somewhere(config, tmp_path, draw)
    done, left = len(losses(tmp_path)), sorted(entry.name for entry in tmp_path.iterdir())
    for folder in committed(tmp_path):
        verify(folder, Manifest.read(folder))
    assert run_ranks(RANKS, train_rank, config) == [True] * RANKS
    assert losses(tmp_path) == undisturbed[seed % 3], f"seed {seed}: killed after step {done}; it left {left}"
    kept = committed(tmp_path)
    assert [folder.name for folder in kept] == [f"step-{step:08d}" for step in (STEPS - 1, STEPS)]
    for folder in kept:
        verify(folder, Manifest.read(folder))
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith((".saving", ".dropping"))]
