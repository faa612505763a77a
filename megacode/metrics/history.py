"""What metrics.jsonl says about a whole run: its curves and its last values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from megacode.metrics.log import Row
from megacode.metrics.screen import PHASES

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class History:
    """The rows of a run by kind, in order."""

    starts: tuple[Row, ...]
    steps: tuple[Row, ...]
    validations: tuple[Row, ...]

    def started_with(self, key: str) -> Any:
        """The newest start row's value of `key`, or None."""
        return next((row[key] for row in reversed(self.starts) if row.get(key) is not None), None)

    def curve(self, key: str) -> Points:
        """(step, value) of every step row that has a number under `key`."""
        return _points(self.steps, key)

    def validation_curve(self, key: str) -> Points:
        """(step, value) of every validation row that has a number under `key`."""
        return _points(self.validations, key)

    def median(self, key: str) -> float | None:
        """The median of `key` over steps, without the first one logged, which warms up; None without any."""
        values = [value for _, value in self.curve(key)]
        return median(values[1:] or values) if values else None

    def phase_shares(self) -> dict[str, float]:
        """The share of all logged seconds that each phase took, `other` included; empty without seconds."""
        rows = [row["seconds"] for row in self.steps if isinstance(row.get("seconds"), Mapping)]
        total = sum(row.get("total") or 0.0 for row in rows)
        if total <= 0:
            return {}
        shares = {phase: sum(row.get(phase) or 0.0 for row in rows) / total for phase in PHASES}
        return {**shares, "other": max(0.0, 1.0 - sum(shares.values()))}


def history(rows: Sequence[Row]) -> History:
    """Sort the rows of a metrics file by kind; kinds not known here are left out."""
    starts, steps, validations = (
        tuple(row for row in rows if row.get("kind") == kind) for kind in ("start", "step", "validation")
    )
    return History(starts, steps, validations)


def _points(rows: Sequence[Row], key: str) -> Points:
    return tuple((row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and "step" in row)
