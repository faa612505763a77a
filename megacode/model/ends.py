"""The two ends of the decoder: tokens into the residual stream, and out of it into logits and loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from megacode.config.schema import ModelConfig
from megacode.layers.dropout import Draw, drop, hidden_dropout
from megacode.layers.embedding import PositionEmbedding, VocabParallelEmbedding, head_spec
from megacode.layers.loss import cross_entropy, cross_entropy_and_gradients
from megacode.layers.norm import LayerNorm
from megacode.layers.spec import LayerContext, ShardedModule
from megacode.parallel.collectives import all_gather_sequence, reduce_scatter_sequence


class Embedding(nn.Module):
    """Token ids and positions [b, s] -> [b, s/tp, h]; rotary positions come in later, with attention."""

    def __init__(self, context: LayerContext, model: ModelConfig) -> None:
        super().__init__()
        self.tp, self.dropout = context.tp, model.embedding_dropout
        self.tokens = VocabParallelEmbedding(context, model)
        self.positions = PositionEmbedding(context, model) if model.positions == "learned" else None

    def forward(self, tokens: Tensor, positions: Tensor, draw: Draw | None) -> Tensor:
        """int64 [b, s] twice -> [b, s/tp, h]."""
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        return drop(x, hidden_dropout(x, self.dropout, draw, 0, self.tp))


class Head(ShardedModule):
    """Final LayerNorm and the output projection, by the embedding matrix where tied.

    `tied` is the first stage's parameter where both ends are one stage. Otherwise the head has a parameter of its own:
    a copy, which the optimizer keeps equal to the first stage's bit for bit, or, not tied, another matrix.
    """

    def __init__(self, context: LayerContext, model: ModelConfig, tied: nn.Parameter | None) -> None:
        super().__init__(context)
        self.norm = LayerNorm(context, "final_norm", model.hidden, model.norm_eps)
        if tied is None:
            self.weight = self.new_parameter("weight", head_spec(model))
        else:
            self.weight = tied

    def logits(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> this rank's [b, s, v/tp]; no gradient."""
        return all_gather_sequence(self.norm(x), self.context.tp) @ self.weight.mT

    def loss(self, x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of token losses in nats, fp32 scalar, from [b, s/tp, h] and targets, weights [b, s]."""
        rows = all_gather_sequence(self.norm(x), self.context.tp).flatten(0, 1)
        return cross_entropy(rows, self.weight, targets.flatten(), weights.flatten(), self.context)

    @torch.no_grad()
    def loss_and_gradient(
        self, normed: Tensor, targets: Tensor, weights: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss from what `norm` made, [b, s/tp, h], and the gradient of `scale` times it for that.

        The gradient of the matrix is added to the matrix's.
        """
        tp = self.context.tp
        whole = all_gather_sequence(normed, tp)
        loss, gradient = cross_entropy_and_gradients(
            whole.flatten(0, 1), self.weight, targets.flatten(), weights.flatten(), scale, self.context
        )
        return loss, reduce_scatter_sequence(gradient.view(whole.shape), tp)
