"""The collectives. A group of one returns what it was given.

Activations are [b, s, h]; "sequence" is dim 1.
Where a mesh of sockets joins the ranks (on the CPU), it does the work; elsewhere torch.distributed does.
`start_...` begins one that is waited for later, so that it travels during computation. Of each other's gradient
(Korthikanti et al. 2022, section 4.2.2):

    all_gather_sequence      forward all-gather        backward reduce-scatter
    reduce_scatter_sequence  forward reduce-scatter    backward all-gather
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megacode.parallel.groups import Group


@dataclass(frozen=True)
class Arriving:
    """A tensor that is on its way; `wait` returns it when it is there."""

    wait: Callable[[], Tensor]


def all_gather_sequence(x: Tensor, group: Group) -> Tensor:
    """[b, s/size, ...] on each rank -> [b, s, ...] on all."""
    return start_all_gather_sequence(x, group).wait()


def start_all_gather_sequence(x: Tensor, group: Group) -> Arriving:
    """`all_gather_sequence`, to be waited for."""
    if group.size == 1:
        return Arriving(lambda: x)
    batch, local, *rest = x.shape
    parts = x.new_empty(group.size, batch, local, *rest)
    finish = _start_all_gather(parts, x.contiguous(), group)

    def wait() -> Tensor:
        finish()
        # With a micro-batch of 1 the parts already lie in sequence order and the reshape is a view.
        return parts.transpose(0, 1).reshape(batch, group.size * local, *rest)

    return Arriving(wait)


def reduce_scatter_sequence(x: Tensor, group: Group) -> Tensor:
    """Partial sums [b, s, ...] on each rank -> this rank's [b, s/size, ...] of the total."""
    return start_reduce_scatter_sequence(x, group).wait()


def start_reduce_scatter_sequence(x: Tensor, group: Group) -> Arriving:
    """`reduce_scatter_sequence`, to be waited for."""
    if group.size == 1:
        return Arriving(lambda: x)
    batch, full, *rest = x.shape
    parts = x.reshape(batch, group.size, full // group.size, *rest).transpose(0, 1).contiguous()
    return Arriving(_start_reduce_scatter(parts, group))


def reduce_scatter_with_grad(x: Tensor, group: Group) -> Tensor:
    """`reduce_scatter_sequence` that autograd knows: its backward is an all-gather."""
    part: Tensor = _ReduceScatterSequence.apply(x, group)  # type: ignore[no-untyped-call]
    return part


class _ReduceScatterSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return reduce_scatter_sequence(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_gather_sequence(grad, ctx.group), None


def all_gather_stacked(x: Tensor, group: Group) -> Tensor:
    """Every rank's `x` [...], by rank: [size, ...]."""
    if group.size == 1:
        return x.unsqueeze(0)
    parts = x.new_empty(group.size, *x.shape)
    _start_all_gather(parts, x.contiguous(), group)()
    return parts


def all_sum_(x: Tensor, group: Group) -> Tensor:
    """Sum over the group, in place on every rank; returns `x`."""
    if group.mesh is not None:
        return group.mesh.all_sum_(x)
    if group.size > 1:
        dist.all_reduce(x, group=group.handle)
    return x


def start_all_sum_(x: Tensor, group: Group) -> Arriving:
    """`all_sum_`, to be waited for. A mesh of sockets does it then only."""
    if group.mesh is not None:
        mesh = group.mesh
        return Arriving(lambda: mesh.all_sum_(x))
    if group.size == 1:
        return Arriving(lambda: x)
    return _arriving(dist.all_reduce(x, group=group.handle, async_op=True), x)


def start_reduce_scatter_flat_(whole: Tensor, group: Group) -> Arriving:
    """Begin to sum a flat [size x n] tensor over the group. This rank's own n elements, which come, become the sum.

    A mesh of sockets does a large one when it is waited for.
    """
    if group.size == 1:
        return Arriving(lambda: whole)
    parts = whole.view(group.size, -1)
    if group.mesh is not None:
        return Arriving(group.mesh.start_reduce_scatter_(parts))
    own = parts[group.index]
    if whole.is_cuda:  # NCCL writes over its input where it lies in the right place
        work = dist.reduce_scatter_single(own.unsqueeze(0), parts, group=group.handle, async_op=True)
        return _arriving(work, own)
    finish = _start_reduce_scatter(parts, group)
    return Arriving(lambda: own.copy_(finish()))


def start_all_gather_flat_(whole: Tensor, group: Group) -> Arriving:
    """Begin to fill the flat [size x n] `whole` from every rank's own n elements of it, in place."""
    if group.size == 1:
        return Arriving(lambda: whole)
    parts = whole.view(group.size, -1)
    own = parts[group.index]
    finish = _start_all_gather(parts, own if whole.is_cuda or group.mesh is not None else own.clone(), group)

    def wait() -> Tensor:
        finish()
        return whole

    return Arriving(wait)


def broadcast_(x: Tensor, group: Group, source: int) -> Tensor:
    """Copy `x` from the group's member number `source` to all, in place; returns `x`."""
    if group.size > 1:
        dist.broadcast(x, src=group.ranks[source], group=group.handle)
    return x


def start_broadcast_(x: Tensor, group: Group, source: int) -> Arriving:
    """`broadcast_`, to be waited for; until then nobody may write to `x`."""
    if group.size == 1:
        return Arriving(lambda: x)
    return _arriving(dist.broadcast(x, src=group.ranks[source], group=group.handle, async_op=True), x)


def barrier(group: Group) -> None:
    """Wait until every rank of the group is here."""
    if group.size > 1:
        dist.barrier(group=group.handle)


def _start_all_gather(parts: Tensor, own: Tensor, group: Group) -> Callable[[], None]:
    """Begin to fill `parts` [size, ...] with every rank's `own` [...]; returns what waits for it."""
    if group.mesh is not None:
        return group.mesh.start_all_gather_into(parts, own)
    work = dist.all_gather_single(parts, own.unsqueeze(0), group=group.handle, async_op=True)
    assert work is not None, "asynchronous"
    return lambda: _wait(work)


def _start_reduce_scatter(parts: Tensor, group: Group) -> Callable[[], Tensor]:
    """Begin to sum every rank's part number `group.index` of `parts` [size, ...]; returns what waits for the sum."""
    if group.mesh is not None:
        return group.mesh.start_reduce_scatter(parts)
    own = torch.empty_like(parts[:1])
    work = dist.reduce_scatter_single(own, parts, group=group.handle, async_op=True)
    assert work is not None, "asynchronous"

    def wait() -> Tensor:
        _wait(work)
        return own.squeeze(0)

    return wait


def _arriving(work: dist.Work | None, x: Tensor) -> Arriving:
    """`x`, which `work` is filling."""
    assert work is not None, "asynchronous"

    def wait() -> Tensor:
        _wait(work)
        return x

    return Arriving(wait)


def _wait(work: dist.Work) -> None:
    work.wait()
