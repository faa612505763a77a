"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def render(results: dict[str, Any]) -> str:
    """What ran where, a row for each pass of each case, the tiles that were timed, and what went wrong."""
    here = results["machine"]
    head = (
        f"{here['gpu']}, torch {here['torch']}, triton {here['triton']}, CUDA {here['cuda']}; "
        f"{len(results['cases'])} cases in {results['seconds']:.0f} s"
    )
    parts = [[head], list(_speeds(results["cases"])), list(_tiles(results["cases"])), list(_problems(results["cases"]))]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _speeds(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = ("op", "shape", "pass", "error / tolerance", "Triton ms", "others, ms", "x best other")
    yield _row(*names, "TFLOP/s", "GB/s", "of roofline")
    yield _row(*["---"] * 3, *["--:"] * 2, "---", *["--:"] * 4)
    for record in records:
        if "speed" not in record:
            yield _row(record["op"], record["shape"], "failed, see below", *[""] * 7)
            continue
        accuracy = record["accuracy"]
        error = f"{accuracy['worst']:.1e} / {accuracy['tolerance']:.0e}" + " WRONG" * (not accuracy["sound"])
        runs = {**record["speed"], **{f"{name}, timed tiles": one for name, one in record.get("tuned", {}).items()}}
        for name, speed in runs.items():
            others = {rival: time for rival, time in speed["milliseconds"].items() if rival != "triton"}
            yield _row(
                record["op"], record["shape"], name.replace("_", " + "), error,
                _number(speed["milliseconds"]["triton"], ".3f"),
                ", ".join(f"{rival} {_number(time, '.3f')}" for rival, time in others.items()),
                _number(speed["times_as_fast"], ".2f"),
                _number(speed["tflops"], ".1f"), _number(speed["gbytes"], ",.0f"),
                _number(speed["roofline_share"], ".0%"),
            )  # fmt: skip


def _tiles(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = [(record, tiles) for record in records for tiles in record.get("tiles", ())]
    if rows:
        yield _row("kernel", "shape", "candidate (the first is the default)", "ms")
        yield _row("---", "---", "---", "--:")
    for record, tiles in rows:
        fastest = min((time for time in tiles["milliseconds"].values() if time is not None), default=None)
        for candidate, time in tiles["milliseconds"].items():
            mark = "**" if time is not None and time == fastest else ""
            yield _row(tiles["op"], record["shape"], candidate, f"{mark}{_number(time, '.3f')}{mark}")


def _problems(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    for record in records:
        name = f"{record['op']}, {record['shape']}"
        if record["error"] is not None:
            yield f"- {name}: {record['error']}"
        accuracy = record.get("accuracy")
        if accuracy and not accuracy["sound"]:
            bits = "" if accuracy["repeats"] else ", and a second run gives other bits"
            yield f"- {name}: outputs off by {accuracy['outputs']}, gradients by {accuracy['gradients']}{bits}"
        if accuracy and accuracy["against"] != "reference":
            yield f"- {name}: compared with {accuracy['against']}, for its definition does not fit in memory"
        for rival, reason in record["failures"].items():
            yield f"- {name}: {rival} did not run: {reason}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
