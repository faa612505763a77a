"""Everything a rank needs for its run, built once from the configuration, complete when it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megacode.config.schema import RunConfig
from megacode.data.batches import BatchPlan
from megacode.data.microbatch import MicroBatch
from megacode.data.prefetch import Prefetcher
from megacode.kernels.dispatch import Implementations
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layout.schedules import Schedule, forward_only, make_schedule
from megacode.layout.topology import Topology
from megacode.model.stage import Stage
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import Connector, Groups, make_groups
from megacode.pipeline.links import Links
from megacode.pipeline.runner import Observer, Runner
from megacode.plan.stages import placement_of
from megacode.train.feed import Feed
from megacode.train.files import RunFolder


@dataclass(frozen=True)
class Run:
    """One rank's part of a training run."""

    config: RunConfig
    groups: Groups
    kernels: Implementations
    stage: Stage
    optimizer: ShardedAdamW
    runner: Runner
    schedule: Schedule
    feed: Feed
    prefetcher: Prefetcher
    folder: RunFolder
    device: torch.device

    def batches(self, source: Prefetcher, step_index: int) -> Sequence[MicroBatch]:
        """This rank's micro-batches of step `step_index` (from 0), on its device.

        Inner stages have them only where attention must know the documents.
        """
        if not (self.stage.has_an_end or source.plan.keeps_documents_apart):
            return ()
        return [batch.to(self.device) for batch in source.step(step_index)]

    def passes(self, plan: BatchPlan, batches: Sequence[MicroBatch], step: int | None) -> Sequence[ForwardPass]:
        """The forward passes over `batches` in training step `step` (from 1), or in an evaluation (None)."""
        seed, coords = self.config.train.seed, self.groups.coords
        passes = []
        for index in range(plan.micro_batches_per_rank):
            draw = None if step is None else Draw(seed, step, index * plan.dp + coords.dp)
            passes.append(ForwardPass(draw, self._documents(batches[index]) if batches else None))
        return passes

    def _documents(self, batch: MicroBatch) -> Any:
        """What attention takes for the documents of one micro-batch."""
        if batch.documents is None:
            return None
        return self.kernels.prepare_documents(batch.documents, *batch.tokens.shape, self.device)

    def forward_schedule(self, plan: BatchPlan) -> Schedule:
        """The forward passes over one step of a validation plan."""
        return forward_only(placement_of(self.config.parallel), plan.micro_batches_per_rank)


def join_groups(config: RunConfig, rank: int, connector: Connector | None) -> Groups:
    """The groups of `rank` in the configured layout; every rank of the joined world calls it."""
    parallel = config.parallel
    topology = Topology(parallel.tp, parallel.pp, parallel.dp, parallel.order)
    return make_groups(topology, rank, connector, placement_of(parallel).last_stage)


def assemble(
    config: RunConfig, groups: Groups, feed: Feed, kernels: Implementations, device: torch.device, observe: Observer
) -> Run:
    """Build this rank's part of the run, with initial weights."""
    stage = Stage(config, groups, kernels, device)
    optimizer = ShardedAdamW(stage.specs(), groups, config.optim, kernels)
    stage.weight_gradients.listen(optimizer.note)
    for module, parameters in stage.parts():
        module.register_forward_pre_hook(optimizer.arrivals.before(parameters))
    message = (config.train.micro_batch, config.data.sequence // groups.tp.size, config.model.hidden)
    return Run(
        config=config,
        groups=groups,
        kernels=kernels,
        stage=stage,
        optimizer=optimizer,
        runner=Runner(stage, Links(groups, message, stage.dtype, device), observe),
        schedule=make_schedule(config.parallel.schedule, placement_of(config.parallel), config.micro_batches),
        feed=feed,
        prefetcher=Prefetcher(feed.train, groups.coords.dp, config.data.workers, config.train.steps),
        folder=RunFolder(Path(config.checkpoint.folder)),
        device=device,
    )
