"""timeline.json: when each stage of a pipeline did what in one step, and the share of it that was waiting."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from megacode.layout.schedules import Kind, make_placement, make_schedule
from megacode.layout.simulate import bubble_fraction, simulate


@dataclass(frozen=True)
class Span:
    """One action: stage, kind (a value of `layout.actions.Kind`), micro-batch, seconds after the first, local chunk."""

    stage: int
    kind: str
    micro_batch: int
    start: float
    end: float
    chunk: int = 0

    @property
    def computes(self) -> bool:
        """Whether the device works, rather than a link."""
        return Kind(self.kind).computes


@dataclass(frozen=True)
class Timeline:
    """The actions of one step of a pipeline."""

    schedule: str
    num_stages: int
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """From the first action's start to the last one's end."""
        return max(span.end for span in self.spans)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches that passed through."""
        return len({span.micro_batch for span in self.spans})

    @property
    def num_chunks(self) -> int:
        """Model chunks on a stage."""
        return 1 + max(span.chunk for span in self.spans)

    @property
    def splits_backward(self) -> bool:
        """Whether backward passes come in two parts."""
        return any(span.kind == Kind.BACKWARD_WEIGHT.value for span in self.spans)

    @property
    def bubble(self) -> float:
        """The measured share of the step in which a stage computes nothing, averaged over stages."""
        busy = sum(span.end - span.start for span in self.spans if span.computes)
        return 1.0 - busy / (self.num_stages * self.seconds) if self.seconds > 0 else 0.0

    @property
    def ideal_bubble(self) -> float:
        """What the same schedule would leave with stages that all take the mean durations, and free messages."""
        placement = make_placement(self.schedule, self.num_stages, self.num_chunks)
        schedule = make_schedule(self.schedule, placement, self.num_micro_batches)
        means = {kind: self._mean_seconds(kind) for kind in Kind if kind.computes}
        return bubble_fraction(simulate(schedule, lambda _, action: means[action.kind]), self.num_stages)

    def _mean_seconds(self, kind: Kind) -> float:
        durations = [span.end - span.start for span in self.spans if span.kind == kind.value]
        return sum(durations) / max(1, len(durations))


def read_timeline(path: Path) -> Timeline:
    """Read timeline.json. Raises OSError, or ValueError where it is not a timeline with at least one action."""
    form = json.loads(path.read_text(encoding="utf-8"))
    try:
        actions = [
            Span(
                int(a["stage"]),
                Kind(a["kind"]).value,
                int(a["micro_batch"]),
                float(a["start"]),
                float(a["end"]),
                int(a.get("chunk", 0)),
            )
            for a in form["actions"]
        ]
        schedule, num_stages = str(form["schedule"]), int(form["stages"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a timeline ({type(error).__name__}: {error})") from error
    if not actions:
        raise ValueError(f"{path}: a timeline without actions")
    if outside := [span for span in actions if not 0 <= span.stage < num_stages or span.end < span.start]:
        raise ValueError(f"{path}: stage or time out of order in {outside[0]}")
    make_placement(schedule, num_stages, 1 + max(span.chunk for span in actions))  # raises for what is no schedule
    first = min(span.start for span in actions)
    spans = (replace(span, start=span.start - first, end=span.end - first) for span in actions)
    return Timeline(schedule, num_stages, tuple(spans))
