"""Causal self-attention with fewer key-value heads than query heads (MQA: Shazeer 2019; GQA: Ainslie et al. 2023).

Query heads are cut over the tensor-parallel ranks. Key-value heads are cut too where there are enough of them;
otherwise every rank computes all of them from the whole sequence and uses those that its query heads read. Its gradient
of them is then partial, and `Copied` says so.
"""

from __future__ import annotations

from torch import Tensor, nn

from megacode.config.schema import ModelConfig
from megacode.kernels.counter_random import AttentionDropout
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.linear import ColumnParallelLinear, RowParallelLinear, column_parallel
from megacode.layers.spec import Copied, LayerContext, Split


class Attention(nn.Module):
    """[b, s/tp, h] -> [b, s/tp, h], without `out.bias`, which goes with the residual.

    `site` numbers its dropout among those of the model.
    """

    def __init__(self, context: LayerContext, name: str, model: ModelConfig, out_std: float, site: int) -> None:
        super().__init__()
        self.context, self.model, self.site = context, model, site
        tp, hidden, self.local_heads = context.tp, model.hidden, model.heads // context.tp.size
        is_cut = model.kv_heads % tp.size == 0
        pair = (2, model.kv_heads * model.head_width, hidden)
        self.query = ColumnParallelLinear(context, f"{name}.query", (hidden, hidden), Split(0), model.init_std)
        self.key_value = ColumnParallelLinear(
            context, f"{name}.key_value", pair, Split(1) if is_cut else Copied(), model.init_std
        )
        self.out = RowParallelLinear(context, f"{name}.out", hidden, hidden, out_std)
        # With copied heads a rank's query heads all read one of them, since then tp is a multiple of kv_heads.
        self.read_head = None if is_cut else tp.index * model.kv_heads // tp.size

    def forward(self, x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Attend over the whole sequence, or inside its documents.

        Rotary positions count from the start of the sequence either way: only their differences enter the scores.
        """
        kernels = self.context.kernels
        query, key_value = column_parallel(x, [self.query, self.key_value])
        query = query.unflatten(-1, (self.local_heads, self.model.head_width))
        key, value = (self._heads_read(part) for part in key_value.chunk(2, dim=-1))
        if self.model.positions == "rotary":
            query, key = (kernels.rotary(heads, self.model.rope_theta) for heads in (query, key))
        attended = kernels.causal_attention(
            query, key, value, self._dropout(forward_pass.draw), self.model.window, forward_pass.documents
        )
        return self.out(attended.flatten(2))

    def _heads_read(self, part: Tensor) -> Tensor:
        """Keys or values [b, s, k' d] -> those that this rank's query heads read, [b, s, k/tp, d] or [b, s, 1, d]."""
        heads = part.unflatten(-1, (-1, self.model.head_width))
        return heads if self.read_head is None else heads[:, :, self.read_head : self.read_head + 1]

    def _dropout(self, draw: Draw | None) -> AttentionDropout | None:
        if draw is None or self.model.attention_dropout == 0.0:
            return None
        first = self.context.tp.index * self.local_heads
        return AttentionDropout(self.model.attention_dropout, draw.at(self.site), first, self.model.heads)
