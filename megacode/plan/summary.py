"""The figures of a run that `megacode check` shows before anything is held or spent."""

from __future__ import annotations

from dataclasses import dataclass

from megacode.config.schema import RunConfig
from megacode.layout.proofs import peak_live_micro_batches
from megacode.layout.schedules import Schedule, make_schedule
from megacode.layout.simulate import EqualStages, bubble_fraction, simulate
from megacode.plan.activations import activation_bytes_on_rank
from megacode.plan.flops import Attention, flops_per_token
from megacode.plan.memory import state_bytes_on_rank
from megacode.plan.parameters import count_parameters, fullest_rank
from megacode.plan.stages import placement_of


@dataclass(frozen=True)
class RunSummary:
    """What a run is and costs. Bytes, FLOPs and tokens are exact counts; `bubble` is a share of the step.

    `flops_per_token` counts causal attention, forward and backward. `bytes_per_rank_max` is weights, gradients and
    optimizer state on the fullest rank; `activation_bytes_max` what the blocks of a stage keep for backward at once;
    `micro_batches_held` of how many micro-batches a rank of the fullest stage holds those of all its layers.
    """

    layout: str
    world_size: int
    parameters: int
    parameters_per_rank_max: int
    steps: int
    global_batch: int
    sequence: int
    tokens_per_step: int
    total_tokens: int
    micro_batches: int
    schedule: str
    bubble: float
    micro_batches_held: float
    flops_per_token: float
    precision: str
    bytes_per_rank_max: int
    recompute: str
    activation_bytes_max: int


def summarize(config: RunConfig) -> RunSummary:
    """Count and simulate the run; expects a configuration that `load_config` has accepted."""
    parallel, model, placement = config.parallel, config.model, placement_of(config.parallel)
    schedule = make_schedule(parallel.schedule, placement, config.micro_batches)
    held = max(peak_live_micro_batches(schedule, stage) for stage in range(parallel.pp))
    chunks = f" of {parallel.chunks} chunks" if parallel.chunks > 1 else ""
    return RunSummary(
        layout=f"TP {parallel.tp} x PP {parallel.pp} x DP {parallel.dp}, order {parallel.order}",
        world_size=parallel.world_size,
        parameters=count_parameters(model).total,
        parameters_per_rank_max=fullest_rank(model, parallel).total,
        steps=config.train.steps,
        global_batch=config.train.global_batch,
        sequence=config.data.sequence,
        tokens_per_step=config.tokens_per_step,
        total_tokens=config.tokens_per_step * config.train.steps,
        micro_batches=config.micro_batches,
        schedule=parallel.schedule + chunks,
        bubble=_bubble(schedule),
        micro_batches_held=held / placement.num_chunks,
        flops_per_token=flops_per_token(model, config.data.sequence, Attention.CAUSAL),
        precision=config.train.precision,
        bytes_per_rank_max=max(state_bytes_on_rank(config, stage).total for stage in range(parallel.pp)),
        recompute=config.train.recompute,
        activation_bytes_max=max(activation_bytes_on_rank(config, stage) for stage in range(parallel.pp)),
    )


def _bubble(schedule: Schedule) -> float:
    """The share of the step that a stage waits, from the schedule itself; with 1F1B (p - 1) / (m + p - 1).

    Stages are equal. A backward pass takes twice a forward pass, half of it for the weights; messages take no time.
    """
    passes = EqualStages(num_chunks=schedule.placement.num_chunks)
    return bubble_fraction(simulate(schedule, passes), schedule.num_stages)


def render_summary(summary: RunSummary) -> str:
    """The summary as aligned lines: a number, what it counts, and how it comes about."""
    s = summary
    flops, flops_prefix = _scaled(s.flops_per_token, 1)
    state, state_prefix = _scaled(s.bytes_per_rank_max, 2)
    kept, kept_prefix = _scaled(s.activation_bytes_max, 2)
    rows = (
        (f"{s.world_size:,}", "ranks", s.layout),
        (f"{s.parameters:,}", "parameters", f"{s.parameters_per_rank_max:,} on the fullest rank"),
        (f"{s.tokens_per_step:,}", "tokens a step", f"{s.global_batch:,} sequences of {s.sequence:,}"),
        (f"{s.total_tokens:,}", "tokens in all", f"{s.steps:,} steps"),
        (f"{s.micro_batches:,}", "micro-batches", "a step, on each replica"),
        (f"{s.bubble * 100:.1f} %", "bubble", f"of the step, {s.schedule}, equal stages"),
        (f"{s.micro_batches_held:g}", "in flight", "micro-batches whose activations the fullest stage holds"),
        (flops, f"{flops_prefix}FLOP a token", "forward and backward, causal attention"),
        (state, f"{state_prefix}B of state", f"{s.precision}, on the fullest rank"),
        (
            kept,
            f"{kept_prefix}B of activations",
            f"of the blocks, at most, recompute {s.recompute}; both ends come on top",
        ),
    )
    wide, label = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{number:>{wide}} {what:<{label}}  {how}" for number, what, how in rows)


def _scaled(count: float, digits: int) -> tuple[str, str]:
    """`count` as a short number and the SI prefix that goes before its unit."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.{digits}f}", prefix
    return f"{count:g}", ""
