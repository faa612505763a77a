"""Executes a schedule on one rank: a loop over its actions, and one short method for each kind of action."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megacode.data.microbatch import MicroBatch
from megacode.layers.forward_pass import ForwardPass
from megacode.layout.schedules import Action, Kind, Schedule
from megacode.model.stage import Stage
from megacode.pipeline.links import Links

Observer = Callable[[Action, float, float], None]


def observe_nothing(action: Action, start: float, end: float) -> None:
    """The observer of a run that nobody watches."""


@dataclass(frozen=True)
class Work:
    """What the runner works on: one micro-batch and one forward pass per index of the schedule.

    Inner stages need no micro-batch contents: `batches` may be empty there. `loss_scale`, a scalar, multiplies the sum
    of token losses before backward.
    """

    batches: Sequence[MicroBatch]
    passes: Sequence[ForwardPass]
    loss_scale: Tensor


@dataclass
class _InFlight:
    """Tensors of micro-batches that are on their way through this stage."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)


class Runner:
    """Runs schedules on one rank's stage; `observe` hears of every action with its start and end in seconds."""

    def __init__(self, stage: Stage, links: Links, stage_index: int, observe: Observer = observe_nothing) -> None:
        self._stage, self._links, self._index, self._observe = stage, links, stage_index, observe
        self._act: dict[Kind, Callable[[Action, Work, _InFlight], None]] = {
            Kind.FORWARD: self._forward,
            Kind.BACKWARD: self._backward,
            Kind.SEND_ACTIVATION: self._send_activation,
            Kind.SEND_GRADIENT: self._send_gradient,
            Kind.RECV_ACTIVATION: self._receive_activation,
            Kind.RECV_GRADIENT: self._receive_gradient,
        }

    def run(self, schedule: Schedule, work: Work) -> list[Tensor]:
        """Execute this stage's actions; gradients add up in the parameters.

        Returns the weighted loss sums of the micro-batches, fp32 scalars, on the last stage; elsewhere nothing.
        """
        flight = _InFlight()
        trains = any(action.kind is Kind.BACKWARD for action in schedule.stages[self._index])
        with torch.set_grad_enabled(trains):
            for action in schedule.stages[self._index]:
                start = time.perf_counter()
                self._act[action.kind](action, work, flight)
                self._observe(action, start, time.perf_counter())
        self._links.drain()
        return flight.losses

    def _forward(self, action: Action, work: Work, flight: _InFlight) -> None:
        index, forward_pass = action.micro_batch, work.passes[action.micro_batch]
        if self._stage.embedding is not None:
            x = self._stage.embed(work.batches[index].tokens, work.batches[index].positions, forward_pass.draw)
        else:
            x = flight.inputs[index]
        x, head = self._stage(x, forward_pass), self._stage.head
        trains = torch.is_grad_enabled()
        if head is None:
            flight.outputs[index] = x
        elif trains:
            batch = work.batches[index]
            flight.outputs[index] = normed = head.norm(x)
            loss, gradient = head.loss_and_gradient(normed, batch.targets, batch.weights, work.loss_scale)
            flight.gradients[index] = gradient
            flight.losses.append(loss)
        else:
            batch = work.batches[index]
            flight.losses.append(head.loss(x, batch.targets, batch.weights))
        if not trains:
            flight.inputs.pop(index, None)

    def _backward(self, action: Action, work: Work, flight: _InFlight) -> None:
        torch.autograd.backward(flight.outputs.pop(action.micro_batch), flight.gradients.pop(action.micro_batch))

    def _send_activation(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        trains = torch.is_grad_enabled()
        output = flight.outputs[action.micro_batch] if trains else flight.outputs.pop(action.micro_batch)
        self._links.send(output, action.peer)

    def _receive_activation(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        flight.inputs[action.micro_batch] = self._links.receive(action.peer).requires_grad_(torch.is_grad_enabled())

    def _send_gradient(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        gradient = flight.inputs.pop(action.micro_batch).grad
        assert gradient is not None, "backward reached the stage's input"
        self._links.send(gradient, action.peer)

    def _receive_gradient(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        flight.gradients[action.micro_batch] = self._links.receive(action.peer)
