"""Throughput of a configuration on made-up tokens: what a step costs and where its time goes."""

from __future__ import annotations

import resource
import statistics
from typing import Any

import torch

from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import choose
from megacode.layout.topology import Topology
from megacode.parallel.groups import Connector, joined_world, make_groups
from megacode.pipeline.runner import observe_nothing
from megacode.plan.flops import flops_per_token, model_flops_utilization, tflops_per_rank
from megacode.prove.synthetic import synthetic_plan
from megacode.train.assemble import Feed, assemble
from megacode.train.device import claim_device
from megacode.train.place import Place
from megacode.train.step import StepReport, train_step

WARM_UP_STEPS = 2


def bench(config: RunConfig, place: Place, steps: int) -> dict[str, Any] | None:
    """Time `steps` optimizer steps after two of warm-up; the figures on rank 0, None on the others.

    tokens_per_second is of the whole run, from the median step; seconds are medians by phase on rank 0;
    peak_memory_bytes is rank 0's: resident memory on a CPU, allocated memory on a GPU.
    """
    device, launch = claim_device(config.launch, place), config.launch
    with joined_world(
        launch.backend, place.rank, place.world_size, launch.timeout_seconds, place.init_method
    ) as connector:
        return _bench_in_world(config, place.rank, steps, device, connector)


def _bench_in_world(
    config: RunConfig, rank: int, steps: int, device: torch.device, connector: Connector | None
) -> dict[str, Any] | None:
    parallel = config.parallel
    groups = make_groups(Topology(parallel.tp, parallel.pp, parallel.dp, parallel.order), rank, connector)
    kernels = choose(config.kernels.implementation, device.type)
    run = assemble(config, groups, Feed(synthetic_plan(config), {}, ""), kernels, device, observe_nothing)
    reports = [train_step(run, step, False) for step in range(1, WARM_UP_STEPS + steps + 1)]
    return _figures(config, reports[WARM_UP_STEPS:], dict(kernels.name_by_op)) if rank == 0 else None


def _figures(config: RunConfig, reports: list[StepReport], kernels: dict[str, str]) -> dict[str, Any]:
    seconds = {phase: statistics.median(report.seconds[phase] for report in reports) for phase in reports[0].seconds}
    rate, ranks = config.tokens_per_step / seconds["total"], config.parallel.world_size
    flops, peak = flops_per_token(config.model, config.data.sequence), config.launch.peak_tflops
    on_gpu = config.launch.device == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {
        "layout": f"tp {config.parallel.tp} x pp {config.parallel.pp} x dp {config.parallel.dp}",
        "steps": len(reports),
        "tokens_per_second": rate,
        "tflops_per_rank": tflops_per_rank(rate, ranks, flops),
        "mfu": model_flops_utilization(rate, ranks, flops, peak) if peak else None,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "kernels": kernels,
    }


def render_bench(figures: dict[str, Any]) -> str:
    """The figures as lines for a person."""
    phases = ", ".join(f"{name} {value * 1e3:.0f}" for name, value in figures["seconds"].items())
    return "\n".join(
        [
            f"{figures['layout']}, median of {figures['steps']} steps",
            f"  {figures['tokens_per_second']:,.0f} tokens/s, {figures['tflops_per_rank']:.3f} TFLOP/s a rank",
            f"  ms: {phases}",
            f"  peak memory of rank 0: {figures['peak_memory_bytes'] / 2**20:,.0f} MiB",
        ]
    )
