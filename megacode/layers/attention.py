"""Causal self-attention with fewer key-value heads than query heads (MQA: Shazeer 2019; GQA: Ainslie et al. 2023).

Query heads are cut over the tensor-parallel ranks. Key-value heads are cut too where there are enough of them;
otherwise every rank computes all of them from the whole sequence and uses those that its query heads read. Its gradient
of them is then partial, and `Copied` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from megacode.config.schema import ModelConfig
from megacode.kernels.counter_random import AttentionDropout
from megacode.layers.dropout import Draw
from megacode.layers.linear import ColumnParallelLinear, RowParallelLinear
from megacode.layers.rotary import rotate
from megacode.layers.spec import Copied, LayerContext, ParamSpec, ShardedModule, Split
from megacode.parallel.collectives import gather_sequence


class KeyValueLinear(ShardedModule):
    """[b, s, h] -> keys and values [b, s, k, d] that this rank's query heads read."""

    def __init__(self, context: LayerContext, name: str, model: ModelConfig, std: float) -> None:
        super().__init__(context)
        self.head_width = model.head_width
        tp, width = context.tp, model.kv_heads * model.head_width
        is_cut = model.kv_heads % tp.size == 0
        placement = Split(1) if is_cut else Copied()
        weight = ParamSpec(f"{name}.weight", (2, width, model.hidden), placement, std=std, decay=True)
        self.weight = self.new_parameter("weight", weight)
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", (2, width), placement))
        # With copied heads a rank's query heads all read one of them, since then tp is a multiple of kv_heads.
        first = tp.index * model.kv_heads // tp.size
        self.used_heads = slice(None) if is_cut else slice(first, first + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[b, s, h] -> key, value, each [b, s, k/tp, d], or [b, s, 1, d] where heads are copied."""
        both = functional.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        both = both.unflatten(-1, (2, -1, self.head_width))
        return both[:, :, 0, self.used_heads], both[:, :, 1, self.used_heads]


class Attention(ShardedModule):
    """[b, s/tp, h] -> [b, s/tp, h]. `site` numbers its dropout among those of the model."""

    def __init__(self, context: LayerContext, name: str, model: ModelConfig, out_std: float, site: int) -> None:
        super().__init__(context)
        self.model, self.site = model, site
        self.local_heads = model.heads // context.tp.size
        self.query = ColumnParallelLinear(context, f"{name}.query", model.hidden, model.hidden, model.init_std)
        self.key_value = KeyValueLinear(context, f"{name}.key_value", model, model.init_std)
        self.out = RowParallelLinear(context, f"{name}.out", model.hidden, model.hidden, out_std)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Attend over the whole sequence, positions counted from its start; `draw` is None in evaluation."""
        x = gather_sequence(x, self.context.tp)
        query = self.query(x).unflatten(-1, (self.local_heads, self.model.head_width))
        key, value = self.key_value(x)
        if self.model.positions == "rotary":
            positions = torch.arange(x.shape[1], device=x.device)
            query, key = (rotate(heads, positions, self.model.rope_theta) for heads in (query, key))
        dropout = self._dropout(draw)
        attended = self.context.kernels.causal_attention(query, key, value, dropout, self.model.window)
        return self.out(attended.flatten(2))

    def _dropout(self, draw: Draw | None) -> AttentionDropout | None:
        if draw is None or self.model.attention_dropout == 0.0:
            return None
        first = self.context.tp.index * self.local_heads
        return AttentionDropout(self.model.attention_dropout, draw.at(self.site), first, self.model.heads)
