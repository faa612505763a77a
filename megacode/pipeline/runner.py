"""Executes a schedule on one rank: a loop over its actions, and one short method for each kind of action."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from megacode.data.microbatch import MicroBatch
from megacode.layers.forward_pass import ForwardPass
from megacode.layout.schedules import Action, Kind, Schedule
from megacode.model.chunk import Chunk
from megacode.model.stage import Stage
from megacode.pipeline.links import Links

Observer = Callable[[Action, float, float], None]
Key = tuple[int, int]


_AWAITED = MappingProxyType(
    {
        Kind.FORWARD: Kind.RECV_ACTIVATION,
        Kind.BACKWARD: Kind.RECV_GRADIENT,
        Kind.BACKWARD_INPUT: Kind.RECV_GRADIENT,
    }
)


def observe_nothing(action: Action, start: float, end: float) -> None:
    """The observer of a run that nobody watches."""


@dataclass(frozen=True)
class Work:
    """What the runner works on: one micro-batch and one forward pass per index of the schedule.

    Stages without an end of the model need no micro-batch contents: `batches` may be empty there. What `loss_scale`
    returns, a scalar, multiplies the sum of token losses before backward; it is asked where there is a loss.
    """

    batches: Sequence[MicroBatch]
    passes: Sequence[ForwardPass]
    loss_scale: Callable[[], Tensor]


@dataclass
class _InFlight:
    """What is on its way through this stage, by (micro-batch, chunk).

    posted: receives that were begun, by what they bring.  inputs: what a chunk's forward started from.
    roots: where its backward starts, without the output's memory.  outputs, input_gradients: what is to be sent.
    gradients: of a chunk's output.  second_halves: weight gradients, held back, and
    what gives the memory that they read back to the links.
    """

    posted: dict[tuple[Kind, int, int], tuple[Action, Callable[[], Tensor]]] = field(default_factory=dict)
    inputs: dict[Key, Tensor] = field(default_factory=dict)
    roots: dict[Key, GradientEdge] = field(default_factory=dict)
    outputs: dict[Key, Tensor] = field(default_factory=dict)
    gradients: dict[Key, Tensor] = field(default_factory=dict)
    input_gradients: dict[Key, Tensor] = field(default_factory=dict)
    second_halves: dict[Key, list[Callable[[], None]]] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)


class Runner:
    """Runs schedules on one rank's stage.

    `observe` hears of every action with its start and end in seconds. A receive is begun where it stands in the
    schedule; what is observed of it is the time that a computation waits for it.
    """

    def __init__(self, stage: Stage, links: Links, observe: Observer = observe_nothing) -> None:
        self._stage, self._links, self._observe = stage, links, observe
        self._act: dict[Kind, Callable[[Action, Work, _InFlight], None]] = {
            Kind.FORWARD: self._forward,
            Kind.BACKWARD: self._backward,
            Kind.BACKWARD_INPUT: self._backward_input,
            Kind.BACKWARD_WEIGHT: self._backward_weight,
            Kind.SEND_ACTIVATION: self._send_activation,
            Kind.SEND_GRADIENT: self._send_gradient,
            Kind.RECV_ACTIVATION: self._post_receive,
            Kind.RECV_GRADIENT: self._post_receive,
        }

    def run(self, schedule: Schedule, work: Work) -> list[Tensor]:
        """Execute this stage's actions; gradients add up in the parameters.

        Returns the weighted loss sums of the micro-batches, fp32 scalars, where the head is; elsewhere nothing.
        """
        flight, actions = _InFlight(), schedule.stages[self._stage.index]
        trains = any(action.kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT) for action in actions)
        with torch.set_grad_enabled(trains):
            for action in actions:
                self._await_message(action, flight)
                start = time.perf_counter()
                self._act[action.kind](action, work, flight)
                if action.kind not in (Kind.RECV_ACTIVATION, Kind.RECV_GRADIENT):
                    self._observe(action, start, time.perf_counter())
        self._links.drain()
        return flight.losses

    def _forward(self, action: Action, work: Work, flight: _InFlight) -> None:
        key, index = (action.micro_batch, action.chunk), action.micro_batch
        chunk, forward_pass = self._stage.chunks[action.chunk], work.passes[index]
        if chunk.embedding is not None:
            x = chunk.embed(work.batches[index].tokens, work.batches[index].positions, forward_pass.draw)
        else:
            x = flight.inputs[key]
        x = chunk(x, forward_pass)
        if chunk.head is not None:
            self._end(chunk, x, key, work, flight)
        else:
            self._hand_on(x, key, flight)
        if not torch.is_grad_enabled() and key in flight.inputs:
            self._links.reuse(flight.inputs.pop(key))

    def _end(self, chunk: Chunk, x: Tensor, key: Key, work: Work, flight: _InFlight) -> None:
        """The loss, and in training the gradient that backward starts from."""
        assert chunk.head is not None, "the model ends here"
        batch = work.batches[key[0]]
        if torch.is_grad_enabled():
            normed = chunk.head.norm(x)
            flight.roots[key] = get_gradient_edge(normed)
            loss, flight.gradients[key] = chunk.head.loss_and_gradient(
                normed, batch.targets, batch.weights, work.loss_scale()
            )
        else:
            loss = chunk.head.loss(x, batch.targets, batch.weights)
        flight.losses.append(loss)

    def _hand_on(self, x: Tensor, key: Key, flight: _InFlight) -> None:
        """Keep an output until it is sent, and no longer, or make it the input of the stage's next chunk."""
        if torch.is_grad_enabled():
            flight.roots[key] = get_gradient_edge(x)
        stage, chunk = self._stage.placement.next(self._stage.index, key[1]) or (None, 0)
        if stage == self._stage.index:
            flight.inputs[key[0], chunk] = x.detach().requires_grad_(torch.is_grad_enabled())
        else:
            flight.outputs[key] = x.detach()

    def _backward(self, action: Action, work: Work, flight: _InFlight) -> None:
        gradient = flight.gradients.pop((action.micro_batch, action.chunk))
        self._propagate(action, gradient, flight)
        self._links.reuse(gradient)

    def _propagate(self, action: Action, gradient: Tensor, flight: _InFlight) -> None:
        key = (action.micro_batch, action.chunk)
        torch.autograd.backward(flight.roots.pop(key), gradient)
        if key not in flight.inputs:
            return
        source = flight.inputs.pop(key)
        assert source.grad is not None, "backward reached the chunk's input"
        stage, chunk = self._stage.placement.previous(self._stage.index, action.chunk) or (None, 0)
        if stage == self._stage.index:
            flight.gradients[action.micro_batch, chunk] = source.grad
        else:
            flight.input_gradients[key] = source.grad
            self._links.reuse(source)

    def _backward_input(self, action: Action, work: Work, flight: _InFlight) -> None:
        gradient = flight.gradients.pop((action.micro_batch, action.chunk))
        with self._stage.weight_gradients.held_back() as second_halves:
            self._propagate(action, gradient, flight)
        flight.second_halves[action.micro_batch, action.chunk] = [*second_halves, partial(self._links.reuse, gradient)]

    def _backward_weight(self, action: Action, work: Work, flight: _InFlight) -> None:
        for second_half in flight.second_halves.pop((action.micro_batch, action.chunk)):
            second_half()

    def _send_activation(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        self._links.send(flight.outputs.pop((action.micro_batch, action.chunk)), action.peer)

    def _send_gradient(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        self._links.send(flight.input_gradients.pop((action.micro_batch, action.chunk)), action.peer)

    def _post_receive(self, action: Action, work: Work, flight: _InFlight) -> None:
        assert action.peer is not None
        what = (action.kind, action.micro_batch, action.chunk)
        flight.posted[what] = (action, self._links.start_receive(action.peer))

    def _await_message(self, action: Action, flight: _InFlight) -> None:
        """Wait for what a computation needs of another stage, and put it where the computation looks for it."""
        kind, key = _AWAITED.get(action.kind), (action.micro_batch, action.chunk)
        if kind is None or (kind, *key) not in flight.posted:
            return
        receive, wait = flight.posted.pop((kind, *key))
        start = time.perf_counter()
        arrived = wait()
        self._observe(receive, start, time.perf_counter())
        if kind is Kind.RECV_ACTIVATION:
            flight.inputs[key] = arrived.requires_grad_(torch.is_grad_enabled())
        else:
            flight.gradients[key] = arrived
