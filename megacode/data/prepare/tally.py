"""Counting what a task did to documents, step by step, so that tasks' counts add up to the same whole in any order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from megacode.data.documents import Document
from megacode.data.prepare.report import SAMPLES_PER_REASON, Reason, StepReport

COLLECT, LICENCES, FILTERS, EXACT = "collect", "licences", "filters", "exact duplicates"
NEAR, DECONTAMINATION, REDACTION = "near duplicates", "decontamination", "redaction"
STEPS = (COLLECT, LICENCES, FILTERS, EXACT, NEAR, DECONTAMINATION, REDACTION)


class Tally:
    """Documents kept and dropped in each step, the reasons with their first paths, and other counts."""

    def __init__(self) -> None:
        self._kept: dict[str, list[int]] = {}
        self._reasons: dict[str, dict[str, tuple[int, list[str]]]] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def keep(self, step: str, content_bytes: int, documents: int = 1) -> None:
        """Count documents that a step let through, and their bytes of text."""
        kept = self._kept.setdefault(step, [0, 0])
        kept[0] += documents
        kept[1] += content_bytes

    def drop(self, step: str, reason: str, path: str, documents: int = 1) -> None:
        """Count documents that a step dropped for `reason`; `path` is one of them."""
        self._add(step, reason, documents, [path])

    def count(self, step: str, name: str, number: int) -> None:
        """Count something else, such as what a step replaced."""
        counts = self._counts.setdefault(step, {})
        counts[name] = counts.get(name, 0) + number

    def _add(self, step: str, reason: str, documents: int, paths: Iterable[str]) -> None:
        reasons = self._reasons.setdefault(step, {})
        before, samples = reasons.get(reason, (0, []))
        reasons[reason] = (before + documents, heapq.nsmallest(SAMPLES_PER_REASON, [*samples, *paths]))

    def merge(self, form: Mapping[str, Any]) -> None:
        """Add what another tally's `to_table` returned."""
        for step, (documents, content_bytes) in form["kept"].items():
            self.keep(step, content_bytes, documents)
        for step, reasons in form["reasons"].items():
            for reason, (documents, paths) in reasons.items():
                self._add(step, reason, documents, paths)
        for step, counts in form["counts"].items():
            for name, number in counts.items():
                self.count(step, name, number)

    def to_table(self) -> dict[str, Any]:
        """Return the counts as plain tables, fit for JSON."""
        return {"kept": self._kept, "reasons": self._reasons, "counts": self._counts}

    def totals(self) -> Iterable[tuple[str, int, int]]:
        """Yield (step, documents kept, documents dropped)."""
        for step in STEPS:
            dropped = sum(documents for documents, _ in self._reasons.get(step, {}).values())
            yield step, self._kept.get(step, (0, 0))[0], dropped

    def reports(self) -> tuple[StepReport, ...]:
        """Return the steps that saw documents, in their order."""
        return tuple(self._report(step) for step in STEPS if step in self._kept or step in self._reasons)

    def _report(self, step: str) -> StepReport:
        documents, content_bytes = self._kept.get(step, (0, 0))
        found = self._reasons.get(step, {}).items()
        ranked = sorted(found, key=lambda item: (-item[1][0], item[0]))
        reasons = tuple(Reason(reason, number, tuple(paths)) for reason, (number, paths) in ranked)
        lost = sum(reason.documents for reason in reasons)
        counts = dict(sorted(self._counts.get(step, {}).items()))
        return StepReport(step, documents + lost, documents, lost, content_bytes, reasons, counts)


def bytes_of(document: Document) -> int:
    """Return the bytes of the document's text in UTF-8."""
    return len(document.content.encode())
