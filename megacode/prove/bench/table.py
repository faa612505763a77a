"""The figures as tables for a person."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from megacode.prove.bench.figures import PHASES

WIDTH = 150


def render(figures: Mapping[str, Any]) -> str:
    """What each contender reached, how they compare, where a step of ours went, and who failed why."""
    console = Console(file=io.StringIO(), width=WIDTH, no_color=True, highlight=False)
    for table in (_engines(figures), _comparisons(figures), _phases(figures)):
        if table.row_count:
            console.print(table)
    for one in figures["engines"]:
        if one["error"]:
            console.print(f"{_name(one)}: {one['error']}", markup=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _engines(figures: Mapping[str, Any]) -> Table:
    title = f"median of {figures['steps']} steps, after {figures['warm_up']} of warm-up"
    table = _table(title, ("engine", "layout", "dtype"), "tokens/s", "TFLOP/s rank", "MFU", "matmul GFLOP/s")
    for name in ("of matmul", "MiB rank", "bubble", "simulated"):
        table.add_column(name, justify="right")
    for one in figures["engines"]:
        if one["error"]:
            table.add_row(one["engine"], one["layout"], one["precision"], "failed, see below")
            continue
        bubble = one["bubble"] or {}
        table.add_row(
            one["engine"],
            one["layout"],
            one["precision"],
            f"{one['tokens_per_second']:,.0f}",
            f"{one['tflops_per_rank']:.3f}",
            _share(one["mfu"]),
            f"{one['matmul_gflops']:,.0f}",
            _share(one["matmul_share"]),
            f"{max(one['peak_memory_bytes']) / 2**20:,.0f}",
            _share(bubble.get("measured")),
            _share(bubble.get("simulated")),
        )
    return table


def _comparisons(figures: Mapping[str, Any]) -> Table:
    names = ("engine", "beside", "layout", "dtype")
    table = _table("how many times as fast", names, "median", "quartiles", "turns", "MiB rank", "beside")
    for one in figures["comparisons"]:
        if one["error"]:
            continue
        lower, upper = one["quartiles"]
        memory = [f"{one['peak_memory_bytes'][whose] / 2**20:,.0f}" for whose in ("engine", "beside")]
        spread = f"{lower:.2f} to {upper:.2f}"
        row = (f"{one['times_as_fast']:.2f}", spread, str(one["turns"]), *memory)
        table.add_row(one["engine"], one["beside"], one["layout"], one["precision"], *row)
    return table


def _phases(figures: Mapping[str, Any]) -> Table:
    table = _table("milliseconds of a step, mean", ("engine", "layout", "dtype"), "rank")
    for name in (*PHASES, "total"):
        table.add_column(name.replace("_", " "), justify="right")
    for one, rank in _ranks(figures):
        times = [f"{rank[name] * 1e3:,.1f}" for name in (*PHASES, "total")]
        table.add_row(one["engine"], one["layout"], one["precision"], str(rank["rank"]), *times)
    return table


def _ranks(figures: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for one in figures["engines"]:
        for rank in one.get("phases", ()):
            yield one, rank


def _table(title: str, left: tuple[str, ...], *right: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['engine']} {one['layout']} {one['precision']}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f} %"
