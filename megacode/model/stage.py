"""The part of the decoder that one rank owns: the chunks of its pipeline stage, cut over its tensor-parallel group."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import nn

from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import Implementations
from megacode.layers.spec import LayerContext, ParamSpec, named_specs
from megacode.layers.weight_gradients import WeightGradients
from megacode.model.chunk import Chunk
from megacode.parallel.groups import Groups
from megacode.plan.stages import layers_of, placement_of

DTYPES = MappingProxyType({"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32})


class Stage:
    """One rank's chunks, in the order of the model; `weight_gradients` is where all their layers leave theirs."""

    def __init__(self, config: RunConfig, groups: Groups, kernels: Implementations, device: torch.device) -> None:
        self.placement, self.index = placement_of(config.parallel), groups.coords.pp
        self.weight_gradients = WeightGradients()
        self.dtype, self.device = DTYPES[config.train.precision], device
        context = LayerContext(groups.tp, self.dtype, device, config.train.seed, kernels, self.weight_gradients)
        layers, tied = layers_of(config.model, config.parallel), None
        self.chunks: list[Chunk] = []
        for number in range(self.placement.num_chunks):
            at = self.placement.virtual_stage(self.index, number)
            is_last = at == self.placement.num_virtual_stages - 1
            chunk = Chunk(context, config, layers[at], embeds=at == 0, has_head=is_last, tied=tied)
            if chunk.embedding is not None and config.model.tied:
                tied = chunk.embedding.tokens.weight
            self.chunks.append(chunk)

    @property
    def has_an_end(self) -> bool:
        """Whether it embeds tokens or computes the loss."""
        return any(chunk.embedding is not None or chunk.head is not None for chunk in self.chunks)

    def parts(self) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
        """In the order of a forward pass: parameters that are read together, and the module that is called first."""
        for chunk in self.chunks:
            if chunk.embedding is not None:
                yield chunk.embedding, list(chunk.embedding.parameters())
            for block in chunk.blocks:
                yield block, list(block.parameters())
            if chunk.head is not None:
                yield chunk.head.norm, list(chunk.head.parameters())

    def specs(self) -> list[tuple[ParamSpec, nn.Parameter]]:
        """Every parameter that this rank holds, with its spec."""
        return [item for chunk in self.chunks for item in named_specs(chunk)]
