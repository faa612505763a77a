"""Linear layers cut over tensor-parallel ranks (Shoeybi et al. 2019, section 3): Y = X A^T + b.

Column parallel: A^T = [A_1 .. A_t], each rank computes its columns of Y from the whole X.
Row parallel: X = [X_1 .. X_t] and A^T stacked, Y = sum of X_i A_i; each rank gets its part of the sequence of Y.

Between blocks a rank keeps its part of the sequence only (Korthikanti et al. 2022, section 4.2.2), so a column-parallel
layer gathers X and, to keep no more than its part, gathers it again in backward. There, messages travel while products
are computed: X comes in during the product for its gradient, which leaves during the product for the weights'.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacode.layers.spec import Copied, LayerContext, ParamSpec, ShardedModule, Split
from megacode.layers.weight_gradients import WeightGradients, add_product, add_row_sum
from megacode.parallel.collectives import (
    Arriving,
    all_gather_sequence,
    reduce_scatter_sequence,
    start_all_gather_sequence,
    start_reduce_scatter_sequence,
)
from megacode.parallel.groups import Group

_Pair = tuple[nn.Parameter, nn.Parameter | None]


class ColumnParallelLinear(ShardedModule):
    """[b, s/tp, in] -> [b, s, out/tp] (or whole `out` where the placement says that every rank has a copy).

    `shape` is the weight's, [..., in]; the leading dims are the outputs.
    """

    def __init__(
        self,
        context: LayerContext,
        name: str,
        shape: tuple[int, ...],
        placement: Split | Copied,
        std: float,
    ) -> None:
        super().__init__(context)
        self.weight = self.new_parameter("weight", ParamSpec(f"{name}.weight", shape, placement, std=std, decay=True))
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", shape[:-1], placement))

    def product(self, x: Tensor) -> Tensor:
        """[b, s/tp, in] -> [b, s, out/tp], without the bias, which the caller adds."""
        return _column_parallel(x, self.context, [self.weight, None])[0]


def column_parallel(x: Tensor, layers: Sequence[ColumnParallelLinear]) -> tuple[Tensor, ...]:
    """What each of `layers` makes of the same `x` [b, s/tp, in], which is gathered once: each [b, s, its out/tp]."""
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return _column_parallel(x, layers[0].context, parameters)


def _column_parallel(x: Tensor, context: LayerContext, parameters: Sequence[nn.Parameter | None]) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = _ColumnParallel.apply(  # type: ignore[no-untyped-call]
        x, context.tp, context.weight_gradients, *parameters
    )
    return outputs


class RowParallelLinear(ShardedModule):
    """[b, s, in/tp] -> [b, s/tp, out]: the partial products are summed and cut along the sequence in one collective.

    `bias` [out] is left to the caller, who adds it to this rank's part of the sequence together with the residual.
    """

    def __init__(self, context: LayerContext, name: str, width_in: int, width_out: int, std: float) -> None:
        super().__init__(context)
        weight = ParamSpec(f"{name}.weight", (width_out, width_in), Split(1), std=std, decay=True)
        self.weight = self.new_parameter("weight", weight)
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", (width_out,), Copied()))

    def forward(self, x: Tensor) -> Tensor:
        """[b, s, in/tp] -> [b, s/tp, out], without the bias."""
        context = self.context
        y: Tensor = _RowParallel.apply(  # type: ignore[no-untyped-call]
            x, self.weight, context.tp, context.weight_gradients
        )
        return y


class _ColumnParallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tp: Group, weight_gradients: WeightGradients, *parameters: nn.Parameter | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        ctx.tp, ctx.weight_gradients, ctx.pairs = tp, weight_gradients, _pairs(parameters)
        whole = all_gather_sequence(x, tp)
        return tuple(
            functional.linear(whole, weight.view(-1, whole.shape[-1]), None if bias is None else bias.view(-1))
            for weight, bias in ctx.pairs
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        pairs: list[_Pair] = ctx.pairs
        # Held back, the second half gathers for itself, so that only this rank's part is kept until then.
        gathering = None if ctx.weight_gradients.holds_back else start_all_gather_sequence(x, ctx.tp)
        grad_whole: Tensor | None = None
        for (weight, _), grad in zip(pairs, grads, strict=True):
            matrix = weight.view(-1, x.shape[-1])
            if grad_whole is None:
                grad_whole = grad @ matrix
            else:
                grad_whole.view(-1, x.shape[-1]).addmm_(grad.flatten(0, 1), matrix)
        assert grad_whole is not None, "there is at least one layer"
        scattering = start_reduce_scatter_sequence(grad_whole, ctx.tp)
        parameters = [parameter for pair in pairs for parameter in pair if parameter is not None]
        ctx.weight_gradients.do(partial(_add_columns, pairs, grads, x, ctx.tp, gathering), *parameters)
        return scattering.wait(), None, None, *(None for pair in pairs for _ in pair)


class _RowParallel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, tp: Group, weight_gradients: WeightGradients) -> Tensor:
        ctx.save_for_backward(x)
        ctx.tp, ctx.weight_gradients, ctx.weight = tp, weight_gradients, weight
        return reduce_scatter_sequence(functional.linear(x, weight), tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        weight: nn.Parameter = ctx.weight
        grad_whole = all_gather_sequence(grad, ctx.tp)
        grad_x = grad_whole @ weight
        ctx.weight_gradients.do(partial(add_product, weight, grad_whole.flatten(0, 1), x.flatten(0, 1)), weight)
        return grad_x, None, None, None


def _add_columns(
    pairs: Sequence[_Pair], grads: Sequence[Tensor], x: Tensor, tp: Group, gathering: Arriving | None
) -> None:
    whole = (gathering or start_all_gather_sequence(x, tp)).wait().flatten(0, 1)
    for (weight, bias), grad in zip(pairs, grads, strict=True):
        rows = grad.flatten(0, 1)
        add_product(weight, rows, whole)
        if bias is not None:
            add_row_sum(bias, rows)


def _pairs(parameters: Sequence[nn.Parameter | None]) -> list[_Pair]:
    """Weight of each layer, and its bias or None."""
    pairs = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        assert weight is not None, "only a bias may be left to the caller"
        pairs.append((weight, bias))
    return pairs
