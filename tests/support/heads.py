"""What ranks do with the output projection in the tests: loss and gradients over a vocabulary that is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megacode.kernels.dispatch import choose
from megacode.layers import loss
from megacode.layers.spec import LayerContext
from megacode.layers.weight_gradients import WeightGradients
from megacode.layout.topology import Topology
from megacode.parallel.groups import Group, joined_world, make_groups


@dataclass
class Problem:
    """Rows through a head: x [rows, h], weight [v, h], targets and weights [rows], what multiplies the loss."""

    x: Tensor
    weight: Tensor
    targets: Tensor
    weights: Tensor
    scale: float = 0.5

    @classmethod
    def made(cls, rows: int, hidden: int, vocab: int, dtype: torch.dtype = torch.float32, size: float = 1.0) -> Problem:
        """Random, with every fifth row of weight 0."""
        random = torch.Generator().manual_seed(rows)
        x = size * torch.randn(rows, hidden, generator=random)
        weight = torch.randn(vocab, hidden, generator=random)
        targets = torch.randint(vocab, (rows,), generator=random)
        weights = torch.rand(rows, generator=random) * (torch.arange(rows) % 5 > 0)
        return cls(x.to(dtype), weight.to(dtype), targets, weights)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and the gradients of x and weight, by torch's own cross entropy in fp64."""
        x, weight = (tensor.double().requires_grad_() for tensor in (self.x, self.weight))
        losses = nn.functional.cross_entropy(x @ weight.mT, self.targets, reduction="none")
        total = (losses * self.weights).sum()
        return total.detach(), *torch.autograd.grad(total * self.scale, (x, weight))

    def ours(self, tp: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This rank's: the loss without gradients, and with them; its part of both gradients."""
        share = len(self.weight) // tp.size
        weight = nn.Parameter(self.weight[tp.index * share : (tp.index + 1) * share].clone())
        weight.grad_dtype = None
        weight.grad = torch.zeros(weight.shape)
        device = torch.device("cpu")
        context = LayerContext(tp, self.x.dtype, device, 1, choose("torch", "cpu"), WeightGradients())
        with torch.no_grad():
            alone = loss.cross_entropy(self.x, weight, self.targets, self.weights, context)
            total, grad_x = loss.cross_entropy_and_gradients(
                self.x, weight, self.targets, self.weights, torch.tensor(self.scale), context
            )
        return alone, total, grad_x, weight.grad


def cut_over_ranks(rank: int, world_size: int, init_method: str, problem: Problem, limits: dict[str, int]) -> Any:
    """`Problem.ours` of each rank, as numpy arrays; `limits` replaces the module's table entries of the CPU."""
    for name, most in limits.items():
        setattr(loss, name, {"cpu": most})
    with joined_world("gloo", rank, world_size, 30, init_method) as connector:
        tp = make_groups(Topology(world_size, 1, 1), rank, connector).tp
        return [tensor.float().numpy() for tensor in problem.ours(tp)]
