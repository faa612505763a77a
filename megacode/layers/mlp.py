"""The two-layer perceptron of a block, with the tanh approximation of GELU that StarCoder was trained with."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from megacode.config.schema import ModelConfig
from megacode.layers.linear import ColumnParallelLinear, RowParallelLinear
from megacode.layers.recompute import thrown_away
from megacode.layers.spec import LayerContext, Split


class MLP(nn.Module):
    """[b, s/tp, h] -> [b, s/tp, h] through [b, s, f/tp]; `is_selective` computes the GELU again in backward."""

    def __init__(
        self, context: LayerContext, name: str, model: ModelConfig, out_std: float, is_selective: bool = False
    ) -> None:
        super().__init__()
        self.is_selective = is_selective
        self.up = ColumnParallelLinear(context, f"{name}.up", (model.ffn, model.hidden), Split(0), model.init_std)
        self.down = RowParallelLinear(context, f"{name}.down", model.ffn, model.hidden, out_std)

    def forward(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> [b, s/tp, h]."""
        gelu = partial(functional.gelu, approximate="tanh")
        with thrown_away(self.is_selective, gelu, self.up(x)) as activated:
            return self.down(activated)
