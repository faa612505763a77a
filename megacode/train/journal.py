"""What rank 0 tells about a run: rows in metrics.jsonl, lines on the screen, a progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby

from megacode import console
from megacode.checkpoint.saver import SaveOutcome
from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import Implementations
from megacode.metrics.log import MetricsLog
from megacode.metrics.screen import render_step, render_validation
from megacode.plan.flops import flops_per_token, model_flops_utilization, tflops_per_rank
from megacode.plan.summary import render_summary, summarize
from megacode.train.files import RunFolder
from megacode.train.step import StepReport


class Journal:
    """The record of one run; made by rank 0 only."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        self._config, self._log = config, MetricsLog(folder.metrics)
        self._flops = flops_per_token(config.model, config.data.sequence)

    def start(
        self, steps_done: int, kernels: Implementations, epochs: Mapping[str, float], entropy: float | None
    ) -> None:
        """Say what is about to run, and drop rows of steps that will be done again.

        `epochs`: how often the whole run reads each source.
        `entropy`: of the validation tokens' frequencies, nats per token; the loss of a model that knows only those.
        """
        config = self._config
        summary = summarize(config)
        self._log.truncate_after(steps_done)
        row = {
            "kind": "start",
            "step": steps_done,
            "world_size": summary.world_size,
            "layout": summary.layout,
            "parameters": summary.parameters,
            "unigram_entropy": entropy,
            "epochs": dict(epochs),
            "kernels": dict(kernels.name_by_op),
        }
        self._log.append(row)
        console.say(render_summary(summary))
        for name, ops in groupby(
            sorted(kernels.name_by_op, key=kernels.name_by_op.__getitem__), kernels.name_by_op.get
        ):
            console.say(f"{name}: {', '.join(ops)}")
        if epochs:
            console.say("epochs of the whole run: " + ", ".join(f"{name} {n:.3g}" for name, n in epochs.items()))
        if entropy is not None:
            console.say(f"unigram entropy of the validation tokens: {entropy:.3f} nats a token")
        console.say(f"resuming after step {steps_done}" if steps_done else "starting at step 0")

    def step(self, report: StepReport) -> None:
        """Record a step; every `train.log_every`-th is shown."""
        config, seconds = self._config, report.seconds["total"]
        ranks, rate = config.parallel.world_size, report.tokens / seconds
        peak = config.launch.peak_tflops
        row = {
            "kind": "step",
            "step": report.step,
            "loss": report.loss,
            "grad_norm": report.gradient_norm,
            "lr": report.learning_rate,
            "tokens": report.step * config.tokens_per_step,
            "tokens_per_second": rate,
            "tflops_per_rank": tflops_per_rank(rate, ranks, self._flops),
            "mfu": model_flops_utilization(rate, ranks, self._flops, peak) if peak else None,
            "skipped": report.skipped,
            "skipped_steps": report.skipped_steps,
            "loss_scale": report.loss_scale,
            "seconds": report.seconds,
        }
        self._log.append(row)
        if report.step % config.train.log_every == 0 or report.step in (1, config.train.steps):
            console.say(render_step(row, config.train.steps))
        if report.skipped:
            console.say(
                f"step {report.step}: gradient norm is {report.gradient_norm} at loss scale {report.loss_scale:g}; "
                f"the update was skipped, {report.skipped_steps} so far"
            )

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Record and show a validation."""
        row = {"kind": "validation", "step": step, **losses}
        self._log.append(row)
        console.say(render_validation(row, self._config.train.steps))

    def checkpoint(self, outcome: SaveOutcome) -> None:
        """Record and show a save that has ended, well or not."""
        self._log.append({"kind": "checkpoint", **asdict(outcome)})
        if outcome.failure:
            console.say(f"step {outcome.step} was NOT saved: {outcome.failure}")
            return
        console.say(
            f"saved step {outcome.step}: {outcome.bytes / 1e6:,.1f} MB in {outcome.write_seconds:.2f} s, "
            f"for {outcome.stall_seconds:.3f} s of which the step waited"
        )
