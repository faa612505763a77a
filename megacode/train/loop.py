"""A training run on one rank, from joining the world to the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from megacode import console
from megacode.checkpoint.folders import committed_folder
from megacode.checkpoint.saver import Saver
from megacode.checkpoint.side_exports import SideExports
from megacode.config.load import ConfigError
from megacode.config.problem import Problem
from megacode.config.schema import RunConfig
from megacode.data.shards.entropy import unigram_entropy
from megacode.kernels.dispatch import Implementations
from megacode.parallel.collectives import barrier
from megacode.parallel.groups import Groups, joined_world
from megacode.train.assemble import Run, assemble, join_groups
from megacode.train.device import claim_device
from megacode.train.feed import Feed, open_feed
from megacode.train.journal import Journal
from megacode.train.kernels import choose_kernels
from megacode.train.place import Place
from megacode.train.resume import open_saver, resume, save
from megacode.train.signals import StopRequest
from megacode.train.step import train_step
from megacode.train.timeline import Recorder, write_timeline
from megacode.train.validate import validate


def train(config: RunConfig, place: Place, stop: StopRequest) -> bool:
    """Train to `train.steps`, resuming where the run folder left off; returns whether all steps are done.

    When `stop` is asked of any rank, all save at the next step and return False. Raises ConfigError if the world that
    was launched is not the configuration's, DataError and CheckpointError as their rooms do.
    """
    _check_world(config, place)
    device = claim_device(config.launch, place)
    kernels, feed, launch = choose_kernels(config, config.launch.device), open_feed(config), config.launch
    with joined_world(
        launch.backend, place.rank, place.world_size, launch.timeout_seconds, place.init_method
    ) as connector:
        groups = join_groups(config, place.rank, connector)
        return _train_in_world(config, groups, feed, kernels, device, stop)


def _train_in_world(
    config: RunConfig, groups: Groups, feed: Feed, kernels: Implementations, device: torch.device, stop: StopRequest
) -> bool:
    recorder = Recorder(groups.coords.pp)
    run = assemble(config, groups, feed, kernels, device, recorder)
    journal = Journal(config, run.folder) if groups.rank == 0 else None
    done = resume(run)
    _on_rank_0(groups, lambda: _open_folder(run))
    if journal:
        journal.start(done, kernels, feed.epochs, _entropy(feed))
    saver = open_saver(run)
    exports = SideExports(run.folder.path, config.checkpoint.export_every if groups.rank == 0 else 0)
    finished = _steps(run, done, saver, exports, recorder, journal, stop)
    _on_rank_0(groups, lambda: (run.folder.finished if finished else run.folder.stopped).touch())
    barrier(groups.world)
    exports.finish(wait=finished)  # after the barrier, which would not wait for as long as an export may take
    return finished


def _steps(
    run: Run,
    done: int,
    saver: Saver,
    exports: SideExports,
    recorder: Recorder,
    journal: Journal | None,
    stop: StopRequest,
) -> bool:
    """The loop; returns whether it reached the last step."""
    config = run.config
    bar = console.progress("training", config.train.steps) if journal else nullcontext(lambda count: None)
    with bar as advance:
        advance(done)
        for step in range(done + 1, config.train.steps + 1):
            recorder.clear()
            report = train_step(run, step, bool(stop.name) or saver.fenced)
            if journal:
                journal.step(report)
            advance(1)
            is_last = step == config.train.steps
            if is_last:
                write_timeline(run.folder.timeline, config.parallel.schedule, recorder, run.groups)
            if run.feed.validation and (is_last or _due(step, config.train.validate_every)):
                losses = validate(run)
                if journal:
                    journal.validation(step, losses)
            if is_last or report.stop or _is_saved(config, step):
                save(run, saver, step)
            if is_last or report.stop:
                _end_saving(saver, exports, journal)
            _tell_of_saves(saver, exports, journal)
            if report.stop and not is_last:
                if journal:
                    console.say(f"asked to stop: saved step {step}; start again to go on")
                return False
    return True


def _end_saving(saver: Saver, exports: SideExports, journal: Journal | None) -> None:
    """Wait for the last save; it must be there."""
    try:
        saver.finish()
    finally:
        _tell_of_saves(saver, exports, journal)


def _tell_of_saves(saver: Saver, exports: SideExports, journal: Journal | None) -> None:
    for outcome in saver.outcomes():
        if journal:
            journal.checkpoint(outcome)
        if not outcome.failure:
            exports.committed(committed_folder(exports.run, outcome.step), outcome.step)


def _is_saved(config: RunConfig, step: int) -> bool:
    return _due(step, config.checkpoint.every) or _due(step, config.checkpoint.export_every)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_world(config: RunConfig, place: Place) -> None:
    parallel = config.parallel
    if parallel.world_size != place.world_size:
        value = f"tp {parallel.tp} x pp {parallel.pp} x dp {parallel.dp}"
        rule = f"makes {parallel.world_size} ranks, but {place.world_size} were launched"
        hint = f"start {parallel.world_size} processes (launch/torchrun.sh does) or change the layout"
        raise ConfigError("launch", [Problem("parallel", value, rule, hint)], place.world_size)


def _entropy(feed: Feed) -> float | None:
    return unigram_entropy(feed.validation_shards) if feed.validation_shards else None


def _on_rank_0(groups: Groups, act: Callable[[], None]) -> None:
    if groups.rank == 0:
        act()


def _open_folder(run: Run) -> None:
    run.folder.path.mkdir(parents=True, exist_ok=True)
    run.folder.stopped.unlink(missing_ok=True)
    run.folder.finished.unlink(missing_ok=True)
