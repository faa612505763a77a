"""A contiguous part of the decoder: one virtual pipeline stage, or all of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from megacode.config.schema import RunConfig
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.spec import LayerContext
from megacode.model.block import Block
from megacode.model.ends import Embedding, Head


class Chunk(nn.Module):
    """The embedding if it is the first, blocks, the head if it is the last.

    `tied` is the embedding matrix where this stage holds it and the head shares it.
    """

    def __init__(
        self,
        context: LayerContext,
        config: RunConfig,
        layers: Sequence[int],
        embeds: bool,
        has_head: bool,
        tied: nn.Parameter | None,
    ) -> None:
        super().__init__()
        model, recompute_in = config.model, config.train.recompute_in
        self.embedding = Embedding(context, model) if embeds else None
        self.blocks = nn.ModuleList(
            Block(context, model, layer, recompute_in(place)) for place, layer in enumerate(layers)
        )
        if self.embedding is not None and model.tied:
            tied = self.embedding.tokens.weight
        self.head = Head(context, model, tied) if has_head else None

    def embed(self, tokens: Tensor, positions: Tensor, draw: Draw | None) -> Tensor:
        """int64 [b, s] -> [b, s/tp, h]; first chunk only."""
        assert self.embedding is not None, "only the first chunk embeds"
        return self.embedding(tokens, positions, draw)

    def forward(self, x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Run the blocks: [b, s/tp, h] -> [b, s/tp, h]."""
        for block in self.blocks:
            x = block(x, forward_pass)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> this rank's [b, s, v/tp]; last chunk only."""
        assert self.head is not None, "only the last chunk computes logits"
        return self.head.logits(x)
