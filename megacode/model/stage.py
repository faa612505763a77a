"""The part of the decoder that one rank owns: its pipeline stage, cut over its tensor-parallel group."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import Implementations
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.spec import LayerContext, ParamSpec, named_specs
from megacode.layers.weight_gradients import WeightGradients
from megacode.model.block import Block
from megacode.model.ends import Embedding, Head
from megacode.parallel.groups import Groups
from megacode.plan.stages import layers_of

DTYPES = MappingProxyType({"bf16": torch.bfloat16, "fp32": torch.float32})


class Stage(nn.Module):
    """Embedding on the first stage, blocks everywhere, head and loss on the last."""

    def __init__(self, config: RunConfig, groups: Groups, kernels: Implementations, device: torch.device) -> None:
        super().__init__()
        model, coords = config.model, groups.coords
        self.weight_gradients = WeightGradients()
        context = LayerContext(
            groups.tp, DTYPES[config.train.precision], device, config.train.seed, kernels, self.weight_gradients
        )
        layers = layers_of(model, config.parallel)[coords.pp]
        self.dtype, self.device = context.dtype, device
        self.embedding = Embedding(context, model) if groups.is_first_stage else None
        self.blocks = nn.ModuleList(
            Block(context, model, layer, config.train.recompute_in(place)) for place, layer in enumerate(layers)
        )
        tied = self.embedding.tokens.weight if self.embedding and model.tied else None
        self.head = Head(context, model, tied) if groups.is_last_stage else None

    def specs(self) -> list[tuple[ParamSpec, nn.Parameter]]:
        """Every parameter that this rank holds, with its spec."""
        return list(named_specs(self))

    def embed(self, tokens: Tensor, positions: Tensor, draw: Draw | None) -> Tensor:
        """int64 [b, s] -> [b, s/tp, h]; first stage only."""
        assert self.embedding is not None, "only the first stage embeds"
        return self.embedding(tokens, positions, draw)

    def forward(self, x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Run the blocks: [b, s/tp, h] -> [b, s/tp, h]."""
        for block in self.blocks:
            x = block(x, forward_pass)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> this rank's [b, s, v/tp]; last stage only."""
        assert self.head is not None, "only the last stage computes logits"
        return self.head.logits(x)
