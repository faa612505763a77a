"""The loss on frozen validation samples of each source: left to right, and filling in the middle in either order."""

from __future__ import annotations

from megacode.data.batches import BatchPlan
from megacode.data.prefetch import Prefetcher
from megacode.pipeline.runner import Work
from megacode.train.assemble import Run
from megacode.train.step import loss_scale, share, sum_of


def validate(run: Run) -> dict[str, float]:
    """Mean loss in nats per token for each kind of validation; every rank calls it and gets all of them.

    Of several sources each kind has the mean over them, and SOURCE.KIND for each.
    """
    run.optimizer.wait_weights()
    by_source = {
        source: {kind: _loss(run, plan) for kind, plan in plans.items()}
        for source, plans in run.feed.validation.items()
    }
    kinds = list(next(iter(by_source.values()), {}))
    losses = {kind: sum(one[kind] for one in by_source.values()) / len(by_source) for kind in kinds}
    if len(by_source) > 1:
        losses |= {f"{source}.{kind}": loss for source, one in by_source.items() for kind, loss in one.items()}
    return losses


def _loss(run: Run, plan: BatchPlan) -> float:
    """Return the mean loss over the first global batch of a plan."""
    batches = run.batches(Prefetcher(plan, run.groups.coords.dp, workers=0, last_step=1), 0)
    scale = loss_scale(run, [batch.weights for batch in batches])
    work = Work(batches, run.passes(plan, batches, None), scale)
    sums = run.runner.run(run.forward_schedule(plan), work)
    return share(run, [sum_of(sums, run.device) * scale()])[0]
