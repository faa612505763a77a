"""Where a run begins: at its newest sound checkpoint, at another run's weights, or at step 0."""

from __future__ import annotations

from pathlib import Path

import torch

from megacode import console
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import committed_folder, newest_sound
from megacode.checkpoint.manifest import RunState
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.restore import check_resumable, restore
from megacode.checkpoint.save import save_checkpoint
from megacode.parallel.collectives import broadcast_
from megacode.train.assemble import Run


def resume(run: Run) -> int:
    """Restore the run's state and return the steps already done. Raises CheckpointError if it cannot go on."""
    done = _newest_step(run)
    if done:
        reader = CheckpointReader(committed_folder(run.folder.path, done))
        check_resumable(reader, run.config, run.feed.tokenizer)
        restore(reader, run.optimizer, run.groups)
        run.optimizer.scaling = reader.manifest.state.scaling
        return reader.manifest.state.step
    if run.config.checkpoint.init_from:
        reader = CheckpointReader(Path(run.config.checkpoint.init_from))
        if reader.manifest.state.tokenizer != run.feed.tokenizer:
            raise CheckpointError(f"{reader.folder} was trained with another tokenizer than data.tokenizer")
        restore(reader, run.optimizer, run.groups, kinds=("master",))
    return 0


def save(run: Run, step: int) -> None:
    """Commit a checkpoint of `step`; every rank calls it."""
    run.optimizer.wait_weights()
    state = RunState(
        step,
        step * run.config.tokens_per_step,
        run.config.model_dump(mode="json"),
        run.feed.tokenizer,
        run.optimizer.scaling,
    )
    save_checkpoint(run.folder.path, run.optimizer, run.groups, state, run.config.checkpoint.keep)


def _newest_step(run: Run) -> int:
    """Rank 0 looks and tells the others, so that all resume from the same folder; 0 for none."""
    step = 0
    if run.groups.rank == 0:
        folder = newest_sound(run.folder.path, console.say)
        step = CheckpointReader(folder).manifest.state.step if folder else 0
    return int(broadcast_(torch.tensor([step], device=run.device), run.groups.world, 0).item())
