"""The report of a run as one HTML file that opens anywhere: no script, no font, no picture from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from megacode.metrics.axes import short
from megacode.metrics.history import History, history
from megacode.metrics.log import MetricsError, read_rows
from megacode.metrics.sections import (
    Section,
    completions_section,
    data_section,
    loss_section,
    throughput_section,
    timeline_section,
)


@dataclass(frozen=True)
class ReportInputs:
    """Where the parts come from. A file that is not there costs its section, not the report.

    `manifest` is what preparing the corpus wrote. `layout`, `parameters` and `unigram_entropy` (nats per token) go
    before what the newest start row of the metrics says under the same names.
    """

    title: str
    metrics: Path
    timeline: Path | None = None
    manifest: Path | None = None
    completions: Path | None = None
    layout: str = ""
    parameters: int | None = None
    unigram_entropy: float | None = None


@dataclass(frozen=True)
class Figure:
    """A key figure: what it is, its value, and a word on it."""

    name: str
    value: str
    note: str = ""


def inputs_in(folder: Path, title: str, manifest: Path | None = None) -> ReportInputs:
    """The usual names in a run folder: metrics.jsonl, timeline.json, completions.json."""
    return ReportInputs(
        title, folder / "metrics.jsonl", folder / "timeline.json", manifest, folder / "completions.json"
    )


def write_report(inputs: ReportInputs, out: Path) -> None:
    """Write the page to `out`, replacing what was there whole or not at all. Raises OSError where it cannot write."""
    run, problem = _read_history(inputs.metrics)
    entropy = inputs.unigram_entropy
    entropy = run.started_with("unigram_entropy") if entropy is None else entropy
    page = (
        _template_environment()
        .get_template("report.html")
        .render(
            title=inputs.title,
            layout=inputs.layout or run.started_with("layout") or "",
            starts=len(run.starts),
            figures=_figures(inputs, run, entropy),
            loss=Section({}, problem) if problem else loss_section(run, entropy),
            throughput=Section({}, problem) if problem else throughput_section(run),
            timeline=timeline_section(inputs.timeline),
            data=data_section(inputs.manifest),
            completions=completions_section(inputs.completions),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)


def _read_history(metrics: Path) -> tuple[History, str]:
    """The run's history; without one that can be read, an empty one and what to tell about it."""
    if not metrics.is_file():
        return history([]), f"What the run measured would be shown here; {metrics} is missing."
    try:
        return history(read_rows(metrics)), ""
    except (OSError, MetricsError) as error:
        return history([]), f"The metrics could not be read: {error}."


def _template_environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": _count, "megabytes": _megabytes, "short": short}
    return environment


def _figures(inputs: ReportInputs, run: History, entropy: float | None) -> list[Figure]:
    """The figures at the top, those that are known."""
    parameters = inputs.parameters if inputs.parameters is not None else run.started_with("parameters")
    ranks, tokens = run.started_with("world_size"), run.curve("tokens")
    found = [
        Figure("parameters", _count(parameters), f"on {ranks:,} ranks" if ranks else ""),
        Figure("tokens trained on", _count(int(tokens[-1][1]) if tokens else None), _steps(run)),
        _last("training loss", run.curve("loss"), entropy),
        _last("validation, left to right", run.validation_curve("left_to_right"), entropy),
        _last("validation, PSM", run.validation_curve("psm"), entropy),
        _last("validation, SPM", run.validation_curve("spm"), entropy),
        Figure("unigram entropy", "" if entropy is None else f"{entropy:.3f}", "nats a token, to beat"),
    ]
    return [figure for figure in found if figure.value]


def _steps(run: History) -> str:
    return f"in {run.steps[-1]['step']:,} steps" if run.steps else ""


def _last(name: str, points: tuple[tuple[float, float], ...], entropy: float | None) -> Figure:
    if not points:
        return Figure(name, "")
    loss = points[-1][1]
    if entropy is None:
        return Figure(name, f"{loss:.3f}", "nats a token")
    return Figure(name, f"{loss:.3f}", f"{abs(entropy - loss):.3f} {'below' if loss <= entropy else 'above'} unigram")


def _count(value: int | float | None) -> str:
    return "" if value is None else f"{value:,}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.2f}"
