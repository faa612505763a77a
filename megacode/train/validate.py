"""The loss on frozen validation samples, left to right and filling in the middle."""

from __future__ import annotations

from megacode.pipeline.runner import Work
from megacode.train.assemble import Run
from megacode.train.step import loss_scale, share, sum_of


def validate(run: Run) -> dict[str, float]:
    """Mean loss in nats per token for each kind of validation; every rank calls it and gets all of them."""
    run.optimizer.wait_weights()
    losses = {}
    for kind, plan in run.feed.validation.items():
        batches = run.batches(plan, 0)
        scale = loss_scale(run, [batch.weights for batch in batches])
        work = Work(batches, run.passes(plan, batches, None), scale)
        sums = run.runner.run(run.forward_schedule(plan), work)
        losses[kind] = share(run, [sum_of(sums, run.device) * scale()])[0]
    return losses
