"""The parts of the report page, each made from one file; a part whose file is missing says so in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from megacode.metrics.charts import Level, Series, line_chart
from megacode.metrics.history import History
from megacode.metrics.timeline import read_timeline
from megacode.metrics.timeline_chart import timeline_chart

Made = TypeVar("Made")


@dataclass(frozen=True)
class Section:
    """What the template shows: `content` under the section's own names, or `missing`, a sentence in its place."""

    content: Mapping[str, Any]
    missing: str = ""


def loss_section(run: History, entropy: float | None) -> Section:
    """Loss curves, nats per token, against the unigram entropy."""
    series = [
        Series("training", run.curve("loss"), "train"),
        Series("left to right", run.validation_curve("left_to_right"), "plain", dots=True),
        Series("infilling, PSM", run.validation_curve("psm"), "fim", dots=True),
        Series("infilling, SPM", run.validation_curve("spm"), "spm", dots=True),
    ]
    if not any(one.points for one in series):
        return Section({}, "metrics.jsonl holds no losses yet; each logged step of the run adds one.")
    levels = [] if entropy is None else [Level("unigram", entropy)]
    chart = line_chart(series, levels, "loss, nats per token")
    return Section({"chart": chart, "validated": bool(run.validations), "entropy": entropy})


def throughput_section(run: History) -> Section:
    """Tokens per second of all ranks over steps, and where a step's time went."""
    points = run.curve("tokens_per_second")
    if not points:
        return Section({}, "metrics.jsonl holds no throughput yet; each logged step of the run adds one.")
    chart = line_chart([Series("all ranks", points, "train")], [], "tokens per second", from_zero=True)
    figures = {key: run.median(key) for key in ("tokens_per_second", "tflops_per_rank", "mfu")}
    return Section({"chart": chart, "phases": run.phase_shares(), **figures})


def timeline_section(path: Path | None) -> Section:
    """The pipeline of one step, with the share of waiting measured and by formula."""

    def make(path: Path) -> Section:
        timeline = read_timeline(path)
        return Section({"chart": timeline_chart(timeline), "timeline": timeline})

    return _from_file(path, "timeline.json", "The pipeline of one step", make)


def data_section(path: Path | None) -> Section:
    """What each step of preparing the corpus kept, and why the rest went."""

    def make(path: Path) -> Section:
        manifest = _load(path, dict)
        steps = [_data_step(step) for step in manifest.get("steps") or []]
        outputs = [_output(name, manifest[name]) for name in ("train", "validation") if manifest.get(name)]
        if not steps and not outputs:
            return Section({}, f"{path} lists no steps.")
        return Section({"steps": steps, "outputs": outputs, "most": max((s["in"] or 0 for s in steps), default=0)})

    return _from_file(path, "manifest.json", "What preparing the corpus kept", make)


def completions_section(path: Path | None) -> Section:
    """Text that the model wrote: after a prefix, or between a prefix and a suffix."""

    def make(path: Path) -> Section:
        samples = _load(path, list)
        keys = ("kind", "prefix", "suffix", "completion")
        shown = [{key: str(sample.get(key) or "") for key in keys} for sample in samples]
        return Section({"samples": shown}) if shown else Section({}, f"{path} holds no samples.")

    return _from_file(path, "completions.json", "What the model writes", make)


def _from_file(path: Path | None, name: str, what: str, make: Callable[[Path], Section]) -> Section:
    if path is None or not path.is_file():
        where = f"no {name} was given" if path is None else f"{path} is missing"
        return Section({}, f"{what} would be shown here; {where}.")
    try:
        return make(path)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Section({}, f"{path} could not be read: {error}")


def _load(path: Path, kind: type[Made]) -> Made:
    form = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(form, kind):
        raise ValueError(f"holds a {type(form).__name__} where a {kind.__name__} belongs")
    return form


def _data_step(step: Mapping[str, Any]) -> dict[str, Any]:
    """One step under the template's names; what is missing or not a number becomes None."""
    reasons = step.get("reasons") or []
    if isinstance(reasons, Mapping):
        reasons = [{"reason": reason, "documents": count} for reason, count in reasons.items()]
    return {
        "name": step.get("step") or step.get("name") or "step",
        "in": _number(step.get("documents_in", step.get("in"))),
        "kept": _number(step.get("kept", step.get("documents_kept"))),
        "bytes": _number(step.get("bytes_kept")),
        "reasons": [{"reason": one.get("reason") or "", "documents": _number(one.get("documents"))} for one in reasons],
    }


def _output(name: str, output: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "documents": _number(output.get("documents")),
        "bytes": _number(output.get("content_bytes")),
    }


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) else None
