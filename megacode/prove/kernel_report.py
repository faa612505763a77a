"""What every kernel compiles to for GPUs that need not be here: as rows, as a table, and in a page of the documents."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megacode.errors import MegacodeError

if TYPE_CHECKING:
    from megacode.kernels.compile_report import Row

BEGIN = "<!-- megacode kernels report -->"
END = "<!-- end of the report -->"
WIDTH = 190


class CannotReport(MegacodeError):
    """The call is wrong, or this process cannot compile; the message says what to do."""

    exit_code = 2


def compile_all(targets: str, op: str | None, advance: Callable[[int], None] | None = None) -> list[Row]:
    """Return a row per build of each case of `op`, or of all ops, for `targets` such as "sm_80,sm_90".

    Raises CannotReport where Triton is missing or interprets, or where a target or the op is unknown.
    """
    try:
        from megacode.kernels.cases.registry import all_cases
        from megacode.kernels.compile_report import rows_of
        from megacode.kernels.offline import CannotCompile
        from megacode.kernels.roofline import GPUS

        cases = all_cases(op)
    except ImportError as error:
        raise CannotReport(f"kernels report needs Triton ({error}): pip install megacode[gpu]") from error
    except ValueError as error:
        raise CannotReport(str(error)) from error
    known = {f"sm_{capability}": capability for capability in GPUS}
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known] or not wanted:
        raise CannotReport(f"--target {targets!r} names {unknown or 'nothing'}; choose of {', '.join(known)}")
    rows = []
    for case in cases:
        for name in wanted:
            try:
                rows += rows_of(case, known[name])
            except CannotCompile as error:
                raise CannotReport(str(error)) from error
        if advance is not None:
            advance(1)
    return rows


def render(rows: Sequence[Row]) -> str:
    """The rows as a table for a person, and what is wrong with some."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"{len(rows)} builds", title_justify="left")
    for name in ("kernel", "shape", "target"):
        table.add_column(name)
    for name in ("regs", "spilled B", "shared B", "warps", "occupancy", "tensor cores"):
        table.add_column(name, justify="right")
    for name in ("MB", "of least", "GFLOP", "least us"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.kernel, row.shape, row.target, *_resources(row), *_work(row))
    console = Console(file=io.StringIO(), width=WIDTH, no_color=True, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    problems = [f"{row.kernel}, {row.shape}, {row.target}: {row.problem}" for row in rows if row.problem]
    return "\n".join([*lines, *problems])


def render_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table of the documents: a line per kernel and shape, the targets beside each other."""
    import triton

    targets = list(dict.fromkeys(row.target for row in rows))
    seen: Counter[tuple[str, str, str]] = Counter()
    builds: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        name = (row.kernel, row.shape, row.target)
        builds.setdefault((row.kernel, row.shape, seen[name]), {})[row.target] = row
        seen[name] += 1
    return "\n".join([f"Triton {triton.__version__}:", "", *_markdown_lines(list(builds.values()), targets)])


def _markdown_lines(builds: Sequence[dict[str, Row]], targets: Sequence[str]) -> Iterator[str]:
    names = [f"{target}: {name}" for target in targets for name in ("registers / shared / occupancy", "least µs")]
    yield _line("kernel", "shape", "MB", "of least", "GFLOP", *names)
    yield _line("---", "---", *["--:"] * (3 + len(names)))
    for by_target in builds:
        one = next(iter(by_target.values()))
        cells = [cell for target in targets for cell in _build_cells(by_target.get(target))]
        yield _line(f"`{one.kernel}`", one.shape, *_work(one)[:3], *cells)


def _build_cells(row: Row | None) -> tuple[str, str]:
    """What a build takes and its least time; dashes where a target has no use for the kernel."""
    if row is None:
        return "-", "-"
    registers, spilled, shared, _, occupancy, _ = _resources(row)
    notes = ", tensor cores" * row.tensor_cores + f", SPILLS {spilled}" * bool(row.spill_bytes)
    return f"{registers} / {shared} / {occupancy}{notes}", _work(row)[3]


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Put the table between the markers of a Markdown page. Raises CannotReport where it has not both of them."""
    try:
        text = page.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CannotReport(f"{page} is not there") from error
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise CannotReport(f"{page} lacks the lines {BEGIN} and {END}, between which the table goes")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{render_markdown(rows)}\n{END}{after}", encoding="utf-8")


def table_of(page: str) -> str:
    """Return what stands between the markers of a page, without the empty lines around it."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", page, re.DOTALL)
    return "" if found is None else found[1].strip()


def _resources(row: Row) -> tuple[str, str, str, str, str, str]:
    return (
        str(row.registers),
        f"{row.spill_bytes:,}",
        f"{row.shared_bytes:,}",
        str(row.warps),
        f"{row.occupancy:.0%}",
        "yes" if row.tensor_cores else "no",
    )


def _work(row: Row) -> tuple[str, str, str, str]:
    return (
        f"{row.bytes / 1e6:,.1f}",
        f"{row.bytes / row.least_bytes:,.2f}",
        f"{row.flops / 1e9:,.1f}",
        f"{row.roofline_us:,.1f}",
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
