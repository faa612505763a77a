"""Where a run begins: at its newest sound checkpoint, at another run's weights, or at step 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from megacode import console
from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.fence import Fence
from megacode.checkpoint.folders import clean_up, committed, committed_folder, step_of
from megacode.checkpoint.initial import check_initial
from megacode.checkpoint.manifest import RunState
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.restore import check_next_batch, check_resumable, restore, together
from megacode.checkpoint.saver import Saver
from megacode.config.schema import RunConfig
from megacode.parallel.collectives import broadcast_
from megacode.train.assemble import Run


def resume(run: Run) -> int:
    """Restore the run's state and return the steps already done; every rank calls it.

    What is damaged is told and passed over for the one before. Raises CheckpointError if the run cannot go on.
    """
    passed_over, step = 0, _newest_before(run, None)
    while step:
        folder = committed_folder(run.folder.path, step)
        try:
            return _restore_all(run, folder)
        except Damage as error:
            passed_over += 1
            if run.groups.rank == 0:
                console.say(f"passing over {folder.name}: {error}")
        step = _newest_before(run, step)
    if passed_over:
        raise CheckpointError(
            f"{run.folder.path}: none of its {passed_over} checkpoints is sound; repair one, or remove them all"
        )
    if run.config.checkpoint.init_from:
        _restore_weights(run, Path(run.config.checkpoint.init_from))
    return 0


def open_saver(run: Run) -> Saver:
    """Take the run folder over and remove what interrupted saves left there; every rank calls it, after `resume`."""
    config, folder, fences = run.config, run.folder.path, list[Fence]()

    def claim() -> None:
        if run.groups.rank == 0:
            try:
                fences.append(Fence.claim(folder))
            except OSError as error:
                raise CheckpointError(f"checkpoint.folder {folder}: cannot be written to ({error})") from None
            clean_up(folder)

    together(run.groups, run.device, claim)
    patience = config.launch.timeout_seconds / 2
    return Saver(folder, run.optimizer, run.groups, config.checkpoint, patience, fences[0] if fences else None)


def save(run: Run, saver: Saver, step: int) -> None:
    """Begin to save step `step`; every rank calls it."""
    config = run.config
    state = RunState(
        step=step,
        tokens=step * config.tokens_per_step,
        config=config.model_dump(mode="json"),
        tokenizer=run.feed.tokenizer,
        scaling=run.optimizer.scaling,
        layout=_layout(config),
        seeds={"data": config.data.seed, "train": config.train.seed},
    )

    def with_position() -> RunState:
        """Asked for in another thread, which may be: samples keep nothing from one to the next."""
        position = run.feed.position(step)
        return replace(state, cursors=position.cursors, next_batch=position.next_batch)

    saver.save(step, with_position)


def _restore_all(run: Run, folder: Path) -> int:
    """Restore everything from one checkpoint; returns its step."""
    reader: list[CheckpointReader] = []

    def look() -> None:
        reader.append(CheckpointReader(folder))
        state = reader[0].manifest.state
        if state.step != step_of(folder):
            raise Damage(f"{folder / 'manifest.json'}: is that of step {state.step}")
        check_resumable(reader[0], run.config, run.feed.tokenizer)
        if run.groups.rank == 0:
            check_next_batch(reader[0], run.config, run.feed.position(state.step).next_batch)

    together(run.groups, run.device, look)
    restore(reader[0], run.optimizer, run.groups, parameters=run.stage.specs())
    state = reader[0].manifest.state
    run.optimizer.scaling = state.scaling
    return state.step


def _restore_weights(run: Run, folder: Path) -> None:
    """Take another run's weights, and nothing else."""
    reader: list[CheckpointReader] = []

    def look() -> None:
        reader.append(CheckpointReader(folder))
        check_initial(reader[0].manifest, run.config, run.feed.tokenizer)

    together(run.groups, run.device, look)
    restore(reader[0], run.optimizer, run.groups, ("master",), run.stage.specs())


def _newest_before(run: Run, step: int | None) -> int:
    """The newest checkpoint before `step`, of all if None; 0 for none. Rank 0 looks and tells the others."""
    found = 0
    if run.groups.rank == 0:
        steps = [step_of(folder) for folder in committed(run.folder.path)]
        found = max((one for one in steps if step is None or one < step), default=0)
    return int(broadcast_(torch.tensor([found], device=run.device), run.groups.world, 0).item())


def _layout(config: RunConfig) -> dict[str, int | str]:
    """What is written down of the layout that saves."""
    parallel = config.parallel
    layout: dict[str, int | str] = {axis: getattr(parallel, axis) for axis in ("tp", "pp", "dp", "order")}
    return layout | {
        "schedule": parallel.schedule,
        "chunks": parallel.chunks,
        "zero_stage": config.optim.zero_stage,
    }
