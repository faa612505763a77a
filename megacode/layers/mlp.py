"""The two-layer perceptron of a block, with the tanh approximation of GELU that StarCoder was trained with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from megacode.config.schema import ModelConfig
from megacode.layers.linear import ColumnParallelLinear, RowParallelLinear
from megacode.layers.spec import LayerContext, Split


class MLP(nn.Module):
    """[b, s/tp, h] -> [b, s/tp, h] through [b, s, f/tp]."""

    def __init__(self, context: LayerContext, name: str, model: ModelConfig, out_std: float) -> None:
        super().__init__()
        self.up = ColumnParallelLinear(context, f"{name}.up", (model.ffn, model.hidden), Split(0), model.init_std)
        self.down = RowParallelLinear(context, f"{name}.down", model.ffn, model.hidden, out_std)

    def forward(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> [b, s/tp, h]."""
        return self.down(functional.gelu(self.up(x), approximate="tanh"))
