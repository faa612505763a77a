"""timeline.json: when each stage of a pipeline did what in one step, and the share of it that was waiting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """One action: stage, kind (`forward`, `backward`, `send_…`, `recv_…`), micro-batch, seconds after the first."""

    stage: int
    kind: str
    micro_batch: int
    start: float
    end: float

    @property
    def computes(self) -> bool:
        """Whether the device works, rather than a link."""
        return self.kind in ("forward", "backward")


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
    def bubble(self) -> float:
        """The measured share of the step in which a stage computes nothing, averaged over stages."""
        busy = sum(span.end - span.start for span in self.spans if span.computes)
        return 1.0 - busy / (self.num_stages * self.seconds) if self.seconds > 0 else 0.0

    @property
    def ideal_bubble(self) -> float:
        """(p - 1) / (m + p - 1): what equal stages and free messages would leave (Narayanan et al. 2021, 2.2)."""
        return (self.num_stages - 1) / (self.num_micro_batches + self.num_stages - 1)


def read_timeline(path: Path) -> Timeline:
    """Read timeline.json. Raises OSError, or ValueError where it is not a timeline with at least one action."""
    form = json.loads(path.read_text(encoding="utf-8"))
    try:
        actions = [
            Span(int(a["stage"]), str(a["kind"]), int(a["micro_batch"]), float(a["start"]), float(a["end"]))
            for a in form["actions"]
        ]
        schedule, num_stages = str(form.get("schedule", "")), int(form["stages"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a timeline ({type(error).__name__}: {error})") from error
    if not actions:
        raise ValueError(f"{path}: a timeline without actions")
    if outside := [span for span in actions if not 0 <= span.stage < num_stages or span.end < span.start]:
        raise ValueError(f"{path}: stage or time out of order in {outside[0]}")
    first = min(span.start for span in actions)
    spans = (Span(s.stage, s.kind, s.micro_batch, s.start - first, s.end - first) for s in actions)
    return Timeline(schedule, num_stages, tuple(spans))
