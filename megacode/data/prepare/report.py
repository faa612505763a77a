"""What preparing did, step by step: documents in, kept, dropped, and why, with paths to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacode.data.errors import DataError

SAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class Reason:
    """Why documents were dropped: how many, and the first paths in order."""

    reason: str
    documents: int
    samples: tuple[str, ...]


@dataclass(frozen=True)
class StepReport:
    """One step: documents in, kept and dropped, bytes of text kept, and the reasons, most frequent first.

    `counts` are what else the step tells, such as the e-mail addresses that it replaced.
    """

    step: str
    documents_in: int
    kept: int
    dropped: int
    bytes_kept: int
    reasons: tuple[Reason, ...]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A written file: its name in the set's folder, documents, bytes of text, bytes and sha256 of the file."""

    name: str
    documents: int
    content_bytes: int
    file_bytes: int
    sha256: str


@dataclass(frozen=True)
class Output:
    """A written set: the name of its folder, documents, bytes of text, and its files in order."""

    name: str
    documents: int
    content_bytes: int
    files: tuple[Shard, ...]


@dataclass(frozen=True)
class PrepareReport:
    """A whole preparation.

    `options` and `listing` (the fingerprint of the files' names, bytes and times) are what a second run compares itself
    with; `input_sha256` is the fingerprint of the files' names and contents.
    """

    out: Path
    options: dict[str, Any]
    listing: str
    input_sha256: str
    steps: tuple[StepReport, ...]
    train: Output
    validation: Output
    reused: bool


def to_json(report: PrepareReport) -> str:
    """Return the manifest's text: the report without where it lies and whether it was reused."""
    form = asdict(report)
    del form["out"], form["reused"]
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, out: Path) -> PrepareReport:
    """Read a manifest's text back. Raises DataError when it is not one."""
    try:
        form = json.loads(text)
        steps = tuple(_step(step) for step in form.pop("steps"))
        train, validation = _output(form.pop("train")), _output(form.pop("validation"))
        return PrepareReport(out=out, steps=steps, train=train, validation=validation, reused=True, **form)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{out}: not a manifest of this program ({error}); prepare again") from error


def _step(form: dict[str, Any]) -> StepReport:
    """Return the step of its JSON form."""
    reasons = tuple(Reason(**{**reason, "samples": tuple(reason["samples"])}) for reason in form["reasons"])
    return StepReport(**{**form, "reasons": reasons})


def _output(form: dict[str, Any]) -> Output:
    """Return the set of its JSON form."""
    return Output(**{**form, "files": tuple(Shard(**shard) for shard in form["files"])})


def render_report(report: PrepareReport) -> list[str]:
    """Return the report as lines for the console."""
    lines = [f"{'step':<18}{'in':>11}{'kept':>11}{'dropped':>11}{'kept MB':>12}"]
    for step in report.steps:
        megabytes = step.bytes_kept / 1e6
        lines.append(f"{step.step:<18}{step.documents_in:>11,}{step.kept:>11,}{step.dropped:>11,}{megabytes:>12.2f}")
        for reason in step.reasons:
            more = ", …" if reason.documents > len(reason.samples) else ""
            lines.append(f"    {reason.documents:>7,}  {reason.reason}: {', '.join(reason.samples)}{more}")
        lines += [f"    {number:>7,}  {name}" for name, number in step.counts.items()]
    for output in (report.train, report.validation):
        size = f"{output.documents:,} documents, {output.content_bytes / 1e6:.2f} MB, {len(output.files):,} files"
        lines.append(f"{report.out / output.name}  {size}")
    if report.reused:
        lines.append("same input and options as before: nothing was done")
    return lines
