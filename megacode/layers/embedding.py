"""Token and position embeddings; the token matrix is cut by vocabulary, and where tied is the output head's too."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from megacode.config.schema import ModelConfig
from megacode.layers.spec import Copied, LayerContext, ParamSpec, ShardedModule, Split
from megacode.layers.weight_gradients import WeightGradients, add_rows
from megacode.parallel.collectives import reduce_scatter_with_grad

TOKENS = "embedding.tokens.weight"


def token_embedding_spec(model: ModelConfig) -> ParamSpec:
    """The [v, h] matrix that the first stage owns; where tied, the last stage has a copy of it."""
    shape = (model.vocab, model.hidden)
    return ParamSpec(TOKENS, shape, Split(0), std=model.init_std, decay=True, is_shared=model.tied)


def head_spec(model: ModelConfig) -> ParamSpec:
    """The [v, h] matrix of a head that is not the embedding's own: the last stage's copy of it, or its own matrix."""
    tied_to, shape = TOKENS if model.tied else None, (model.vocab, model.hidden)
    return ParamSpec(
        "head.weight", shape, Split(0), std=model.init_std, decay=True, tied_to=tied_to, is_shared=model.tied
    )


class VocabParallelEmbedding(ShardedModule):
    """Token ids [b, s] -> [b, s/tp, h]. Each rank looks up the ids of its part of the vocabulary."""

    def __init__(self, context: LayerContext, model: ModelConfig) -> None:
        super().__init__(context)
        self.weight = self.new_parameter("weight", token_embedding_spec(model))
        self.first_token = context.tp.index * (model.vocab // context.tp.size)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [b, s] -> [b, s/tp, h]."""
        tp = self.context.tp
        if tp.size == 1:
            return look_up(tokens, self.weight, self.context.weight_gradients)
        local = tokens - self.first_token
        is_elsewhere = (local < 0) | (local >= self.weight.shape[0])
        rows = look_up(local.masked_fill(is_elsewhere, 0), self.weight, self.context.weight_gradients)
        return reduce_scatter_with_grad(rows.masked_fill(is_elsewhere.unsqueeze(-1), 0.0), tp)


class PositionEmbedding(ShardedModule):
    """Positions [b, s] -> [b, s/tp, h], learned; each rank looks up its part of the sequence."""

    def __init__(self, context: LayerContext, model: ModelConfig) -> None:
        super().__init__(context)
        shape = (model.context, model.hidden)
        spec = ParamSpec("embedding.positions.weight", shape, Copied(), std=model.init_std, decay=True)
        self.weight = self.new_parameter("weight", spec)

    def forward(self, positions: Tensor) -> Tensor:
        """int64 [b, s] -> [b, s/tp, h]."""
        tp = self.context.tp
        local = torch.chunk(positions, tp.size, dim=1)[tp.index]
        return look_up(local, self.weight, self.context.weight_gradients)


def look_up(indices: Tensor, weight: nn.Parameter, weight_gradients: WeightGradients) -> Tensor:
    """Rows of `weight` [count, h] by `indices` [b, s] -> [b, s, h]; its gradient touches those rows only."""
    rows: Tensor = _LookUp.apply(indices, weight, weight_gradients)  # type: ignore[no-untyped-call]
    return rows


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, weight: nn.Parameter, weight_gradients: WeightGradients) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.weight, ctx.weight_gradients = weight, weight_gradients
        return functional.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        ctx.weight_gradients.do(partial(add_rows, ctx.weight, indices, grad), ctx.weight)
        return None, None, None
