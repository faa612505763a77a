"""What a pipeline stage does, as data: actions, and the schedule that orders them for each stage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from megacode.layout.stages import Placement

FORWARD_ONLY = "forward"


class Kind(Enum):
    """What an action does; the value is its name in files and pictures.

    `BACKWARD` computes the gradients of a chunk's input and of its weights. `BACKWARD_INPUT` and `BACKWARD_WEIGHT` are
    its two halves (B and W in Qi et al. 2023, section 2): only the first has another stage waiting for it.
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"
    RECV_ACTIVATION = "recv_activation"
    SEND_ACTIVATION = "send_activation"
    RECV_GRADIENT = "recv_gradient"
    SEND_GRADIENT = "send_gradient"

    __hash__ = object.__hash__  # members are single objects, and Enum's own hash, of the name, is slow

    @property
    def computes(self) -> bool:
        """Whether it keeps the device busy, rather than a link."""
        return self in (Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)


@dataclass(frozen=True)
class Action:
    """One thing that a stage does with one micro-batch.

    `chunk` is always a local chunk of the stage that acts: the sender's in a send, the receiver's in a receive. `peer`
    is the other stage of a send or receive.
    """

    kind: Kind
    micro_batch: int
    chunk: int = 0
    peer: int | None = None

    def __str__(self) -> str:
        chunk = f" of chunk {self.chunk}" if self.chunk else ""
        return f"{self.kind.value} {self.micro_batch}{chunk}" + ("" if self.peer is None else f" (stage {self.peer})")


@dataclass(frozen=True)
class Schedule:
    """`stages[i]` is what stage i does, in order."""

    name: str
    num_micro_batches: int
    placement: Placement
    stages: tuple[tuple[Action, ...], ...]

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return len(self.stages)
