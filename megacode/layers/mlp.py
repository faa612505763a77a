"""The two-layer perceptron of a block, with the tanh approximation of GELU that StarCoder was trained with."""

from __future__ import annotations

from torch import Tensor, nn

from megacode.config.schema import ModelConfig
from megacode.layers.linear import ColumnParallelLinear, RowParallelLinear
from megacode.layers.recompute import thrown_away
from megacode.layers.spec import LayerContext, Split


class MLP(nn.Module):
    """[b, s/tp, h] -> [b, s/tp, h] through [b, s, f/tp], without `down.bias`, which goes with the residual.

    `is_selective` computes the GELU again in backward.
    """

    def __init__(
        self, context: LayerContext, name: str, model: ModelConfig, out_std: float, is_selective: bool = False
    ) -> None:
        super().__init__()
        self.kernels, self.is_selective = context.kernels, is_selective
        self.up = ColumnParallelLinear(context, f"{name}.up", (model.ffn, model.hidden), Split(0), model.init_std)
        self.down = RowParallelLinear(context, f"{name}.down", model.ffn, model.hidden, out_std)

    def forward(self, x: Tensor) -> Tensor:
        """[b, s/tp, h] -> [b, s/tp, h]."""
        product, bias = self.up.product(x), self.up.bias
        activated = self.kernels.bias_gelu(product, bias, self.is_selective)
        with thrown_away(self.is_selective, activated, self.kernels.bias_gelu_again, product, bias):
            return self.down(activated)
