"""What every pipeline stage did when, recorded from the actions that ran, for the report's picture."""

from __future__ import annotations

import json
from pathlib import Path

from megacode.layout.schedules import Action
from megacode.parallel.collectives import barrier
from megacode.parallel.groups import Groups


class Recorder:
    """An observer of the runner that keeps the actions of the latest step; seconds on this machine's clock."""

    def __init__(self, stage: int) -> None:
        self._stage = stage
        self._rows: list[dict[str, object]] = []

    def __call__(self, action: Action, start: float, end: float) -> None:
        """Note one action."""
        what = {"kind": action.kind.value, "micro_batch": action.micro_batch, "chunk": action.chunk}
        self._rows.append({"stage": self._stage, **what, "start": start, "end": end})

    def clear(self) -> None:
        """Begin a new step."""
        self._rows.clear()

    def rows(self) -> list[dict[str, object]]:
        """The actions noted since the last `clear`, in order."""
        return list(self._rows)


def write_timeline(path: Path, schedule: str, recorder: Recorder, groups: Groups) -> None:
    """Write the latest step of the first replica as one file; every rank calls it.

    Limits: stages on different machines are put side by side by their own clocks.
    """
    coords = groups.coords
    if coords.tp == 0 and coords.dp == 0:
        _part(path, coords.pp).write_text(json.dumps(recorder.rows()), encoding="utf-8")
    barrier(groups.world)
    if groups.rank == 0:
        parts = [_part(path, stage) for stage in range(groups.topology.pp)]
        actions = [row for part in parts for row in json.loads(part.read_text(encoding="utf-8"))]
        first = min(row["start"] for row in actions)
        for row in actions:
            row["start"], row["end"] = row["start"] - first, row["end"] - first
        picture = {"schedule": schedule, "stages": groups.topology.pp, "actions": actions}
        path.write_text(json.dumps(picture), encoding="utf-8")
        for part in parts:
            part.unlink()


def _part(path: Path, stage: int) -> Path:
    return path.with_name(f"{path.stem}.stage{stage}.json")
