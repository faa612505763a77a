"""The collectives, in autograd pairs where a layer calls them. A group of one returns what it was given.

Activations are [b, s, h]; "sequence" is dim 1.
Where a mesh of sockets joins the ranks (on the CPU), it does the work; elsewhere torch.distributed does.
The pairs (Korthikanti et al. 2022, section 4.2.2):

    gather_sequence          forward all-gather        backward reduce-scatter
    reduce_scatter_sequence  forward reduce-scatter    backward all-gather
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megacode.parallel.groups import Group


def gather_sequence(x: Tensor, group: Group) -> Tensor:
    """[b, s/tp, h] on each rank -> [b, s, h] on all; gradients, partial on each rank, are summed and cut back."""
    if group.size == 1:
        return x
    gathered: Tensor = _GatherSequence.apply(x, group)  # type: ignore[no-untyped-call]
    return gathered


def reduce_scatter_sequence(x: Tensor, group: Group) -> Tensor:
    """Partial sums [b, s, h] on each rank -> this rank's [b, s/tp, h] of the total."""
    if group.size == 1:
        return x
    part: Tensor = _ReduceScatterSequence.apply(x, group)  # type: ignore[no-untyped-call]
    return part


class _GatherSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _all_gather_dim1(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _reduce_scatter_dim1(grad, ctx.group), None


class _ReduceScatterSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _reduce_scatter_dim1(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_gather_dim1(grad, ctx.group), None


def _all_gather_dim1(x: Tensor, group: Group) -> Tensor:
    batch, local, *rest = x.shape
    parts = x.new_empty(group.size, batch, local, *rest)
    _all_gather(parts, x.contiguous(), group)
    # With a micro-batch of 1 the parts already lie in sequence order and the reshape is a view.
    return parts.transpose(0, 1).reshape(batch, group.size * local, *rest)


def _reduce_scatter_dim1(x: Tensor, group: Group) -> Tensor:
    batch, full, *rest = x.shape
    parts = x.reshape(batch, group.size, full // group.size, *rest).transpose(0, 1).contiguous()
    return _reduce_scatter(parts, group)


def all_sum_(x: Tensor, group: Group) -> Tensor:
    """Sum over the group, in place on every rank; returns `x`."""
    if group.mesh is not None:
        return group.mesh.all_sum_(x)
    if group.size > 1:
        dist.all_reduce(x, group=group.handle)
    return x


def all_max_(x: Tensor, group: Group) -> Tensor:
    """Maximum over the group, in place on every rank; returns `x`. For small tensors."""
    if group.mesh is not None:
        return x.copy_(group.mesh.all_gather(x).amax(dim=0))
    if group.size > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=group.handle)
    return x


def reduce_scatter_flat(x: Tensor, group: Group) -> Tensor:
    """Sum a flat [size x n] tensor over the group and return this rank's [n]; for a group of one, `x` itself."""
    return x if group.size == 1 else _reduce_scatter(x.view(group.size, -1), group)


def all_gather_flat_(whole: Tensor, group: Group) -> Tensor:
    """Fill the flat [size x n] `whole` from every rank's own n elements of it, in place; returns `whole`."""
    if group.size > 1:
        parts = whole.view(group.size, -1)
        _all_gather(parts, parts[group.index].clone(), group)
    return whole


def broadcast_(x: Tensor, group: Group, source: int) -> Tensor:
    """Copy `x` from the group's member number `source` to all, in place; returns `x`."""
    if group.size > 1:
        dist.broadcast(x, src=group.ranks[source], group=group.handle)
    return x


def barrier(group: Group) -> None:
    """Wait until every rank of the group is here."""
    if group.size > 1:
        dist.barrier(group=group.handle)


def _all_gather(parts: Tensor, own: Tensor, group: Group) -> None:
    """Fill `parts` [size, ...] with every rank's `own` [...]."""
    if group.mesh is not None:
        group.mesh.all_gather_into(parts, own)
    else:
        dist.all_gather_single(parts, own.unsqueeze(0), group=group.handle)


def _reduce_scatter(parts: Tensor, group: Group) -> Tensor:
    """The sum over all ranks of their part number `group.index` of `parts` [size, ...]."""
    if group.mesh is not None:
        return group.mesh.reduce_scatter(parts)
    own = torch.empty_like(parts[:1])
    dist.reduce_scatter_single(own, parts, group=group.handle)
    return own.squeeze(0)
