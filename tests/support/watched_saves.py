"""Ranks of runs in which something is done or goes wrong on the way; importable by the processes that are started."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from disk_run import train_rank

from megacode import console
from megacode.checkpoint import restore as restore_module
from megacode.checkpoint import saver as saver_module
from megacode.checkpoint.fence import Fence
from megacode.checkpoint.saver import Saver
from megacode.config.schema import RunConfig
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import joined_world
from megacode.prove.outcome import assemble_synthetic
from megacode.prove.synthetic import synthetic_plan
from megacode.train import resume as resume_module
from megacode.train.feed import Feed, Position
from megacode.train.resume import open_saver, resume, save
from megacode.train.validate import validate


def train_and_listen(rank: int, world_size: int, init_method: str, config: RunConfig) -> str:
    """A rank that returns what it said."""
    said: list[str] = []
    console.say = said.append  # type: ignore[assignment]
    train_rank(rank, world_size, init_method, config)
    return "\n".join(said)


def train_rank_with_other_samples(
    rank: int, world_size: int, init_method: str, config: RunConfig, packing: str
) -> bool:
    """A rank whose samples are others, as when the shards were made again."""
    changed = config.model_copy(update={"data": config.data.model_copy(update={"packing": packing})})
    original = restore_module.check_next_batch
    resume_module.check_next_batch = lambda reader, _, hash: original(reader, changed, hash)
    Feed.position = lambda self, steps: Position({}, "f" * 64)  # type: ignore[method-assign]
    return train_rank(rank, world_size, init_method, config)


def differing_copies(rank: int, world_size: int, init_method: str, config: RunConfig) -> bool:
    """A rank of two stages; the last one's copy of the embedding is changed after it came."""
    original = ShardedAdamW.publish

    def publish(self: ShardedAdamW) -> None:
        original(self)
        for tied in self._tied:
            if tied.group.index > 0:
                tied.weight.view(-1)[3] += 1e-7

    ShardedAdamW.publish = publish  # type: ignore[method-assign]
    return train_rank(rank, world_size, init_method, config)


def take_over_at_step_4(rank: int, world_size: int, init_method: str, config: RunConfig) -> bool:
    """A rank of a run whose folder another start takes while it is in the fourth step."""
    original = saver_module.Saver.save

    def save(self: Saver, step: int, state: Any) -> None:
        if step == 4 and rank == 0:
            Fence.claim(Path(config.checkpoint.folder))
        original(self, step, state)

    saver_module.Saver.save = save  # type: ignore[method-assign]
    return train_rank(rank, world_size, init_method, config)


def full_disk(rank: int, world_size: int, init_method: str, config: RunConfig, broken: int, steps: tuple) -> bool:
    """A rank of a run in which the disk of rank `broken` is full at some steps."""
    original = saver_module.write_file

    def write_file(folder: Path, *arguments: Any) -> Any:
        if rank == broken and any(f"{step:08d}" in folder.name for step in steps):
            (folder / "rank_00001.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(folder, *arguments)

    saver_module.write_file = write_file
    return train_rank(rank, world_size, init_method, config)


def train_one_after_another(rank: int, world_size: int, init_method: str, configs: Sequence[RunConfig]) -> int:
    """One rank of several runs of the same size; returns how many ended well."""
    return sum(train_rank(rank, world_size, f"{init_method}-{number}", config) for number, config in enumerate(configs))


def start_and_save(rank: int, world_size: int, init_method: str, configs: list[RunConfig]) -> list[float]:
    """Start each run from its base, and without a step of training measure the loss and save; returns the losses."""
    losses = []
    with joined_world("gloo", rank, world_size, 60, init_method) as connector:
        for config in configs:
            run = assemble_synthetic(config, rank, connector)
            plan = synthetic_plan(config)
            run = replace(run, feed=Feed(plan, {"made up": {"plain": plan}}, ""))
            assert resume(run) == 0
            losses.append(validate(run)["plain"])
            saver = open_saver(run)
            save(run, saver, 0)
            saver.finish()
    return losses
