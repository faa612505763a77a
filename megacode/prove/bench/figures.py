"""From what was seen to figures: medians over steps, ratios over turns. Plain dictionaries, as `--json` prints them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from megacode.plan.flops import flops_per_token, model_flops_utilization, tflops_per_rank
from megacode.prove.bench.bubble import measured_bubble
from megacode.prove.bench.contenders import OURS, Contender
from megacode.prove.bench.measure import Plan, Record, places

PHASES = (
    "forward",
    "backward",
    "pipeline_wait",
    "reduction",
    "optimizer",
    "weight_gather",
    "data",
    "other",
)


def figures(records: Sequence[Record], plan: Plan) -> dict[str, Any]:
    """Everything that was measured; seconds, bytes, tokens per second.

    engines:      one entry per contender, with `error` alone where it failed.
    comparisons:  ours beside each other contender of its cell, and each variant of ours beside each peer: how many
                  times as fast the first is, the median over turns of the ratio of the two medians of that turn, and
                  its quartiles.
    """
    return {
        "steps": plan.steps,
        "warm_up": plan.warm_up,
        "engines": [_engine(record) for record in records],
        "comparisons": [
            _comparison(ours, other)
            for ours in records
            for other in records
            if _compared(ours.contender, other.contender)
        ],
    }


def _compared(ours: Contender, other: Contender) -> bool:
    if not ours.is_ours or ours.cell != other.cell:
        return False
    return not other.is_ours or (ours.engine == OURS != other.engine)


def _engine(record: Record) -> dict[str, Any]:
    contender, config = record.contender, record.contender.config
    named = {"engine": contender.engine, "layout": contender.layout, "precision": config.train.precision}
    named["threads"] = config.launch.threads
    if record.error:
        return {**named, "error": record.error}
    seconds = [second for turn in step_seconds(record) for second in turn]
    rate, ranks = config.tokens_per_step / statistics.median(seconds), config.parallel.world_size
    flops, peak = flops_per_token(config.model, config.data.sequence), config.launch.peak_tflops
    reached = tflops_per_rank(rate, ranks, flops)
    gflops = statistics.median(value for turn in record.gflops for value in turn)
    return {
        **named,
        "error": "",
        "ranks": ranks,
        "tokens_per_second": rate,
        "step_seconds": seconds,
        "tflops_per_rank": reached,
        "mfu": model_flops_utilization(rate, ranks, flops, peak),
        "matmul_gflops": gflops,
        "matmul_share": reached * 1e3 / gflops,
        "peak_memory_bytes": [rows[-1]["peak_memory_bytes"] for rows in record.rows[-1]],
        "loss": _loss(record),
        "phases": _phases(record),
        "bubble": _bubble(record),
        **record.about,
    }


def _loss(record: Record) -> float:
    """Of the last step, nats per token: the mean over the ranks that know one, which may be their replica's."""
    told = [rows[-1]["loss"] for rows in record.rows[-1]]
    return statistics.fmean(loss for loss in told if loss is not None)


def step_seconds(record: Record) -> list[list[float]]:
    """By turn, how long each step took the rank that took longest."""
    return [[max(row["seconds"] for row in step) for step in zip(*turn, strict=True)] for turn in record.rows]


def _phases(record: Record) -> list[dict[str, Any]]:
    """For each rank the mean seconds of a step by phase; they add up to `total`. Empty where nobody observed."""
    if not record.observed:
        return []
    rows = []
    for rank, place in enumerate(places(record.contender)):
        steps = [_whole(step[rank]) for step in record.observed]
        mean = {name: statistics.fmean(step[name] for step in steps) for name in (*PHASES, "total")}
        rows.append({"rank": rank, **place._asdict(), **mean})
    return rows


def _whole(step: Mapping[str, Any]) -> dict[str, float]:
    """A step's phases and what is left of it."""
    known = step["phases"]
    return {**known, "other": step["seconds"] - sum(known.values()), "total": step["seconds"]}


def _bubble(record: Record) -> dict[str, float | None] | None:
    """The measured share, median over steps and replicas, and the simulated one; None without a pipeline."""
    if not record.observed or record.contender.config.parallel.pp == 1:
        return None
    pipelines: dict[int, list[tuple[int, int]]] = {}
    for rank, place in enumerate(places(record.contender)):
        if place.tp == 0:
            pipelines.setdefault(place.dp, []).append((place.pp, rank))
    measured = [
        measured_bubble([step[rank]["passes"] for _, rank in sorted(stages)])
        for step in record.observed
        for stages in pipelines.values()
    ]
    return {"measured": statistics.median(measured), "simulated": record.simulated_bubble}


def _comparison(ours: Record, other: Record) -> dict[str, Any]:
    layout, precision = ours.contender.cell
    engines = {"engine": ours.contender.engine, "beside": other.contender.engine}
    named = {**engines, "layout": layout, "precision": precision}
    if failed := [record for record in (ours, other) if record.error]:
        return {**named, "error": f"{failed[0].contender.engine}: {failed[0].error}"}
    ratios = paired_ratios(step_seconds(ours), step_seconds(other))
    lower, _, upper = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    memory = {name: max(_engine(record)["peak_memory_bytes"]) for name, record in (("engine", ours), ("beside", other))}
    return {
        **named,
        "error": "",
        "times_as_fast": statistics.median(ratios),
        "quartiles": [lower, upper],
        "turns": len(ratios),
        "peak_memory_bytes": memory,
    }


def paired_ratios(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """By turn, the other's median step over ours: above 1 where ours is faster."""
    return [statistics.median(b) / statistics.median(a) for a, b in zip(ours, theirs, strict=True)]
