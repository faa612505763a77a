"""LayerNorm over the hidden width (Ba et al. 2016), on this rank's part of the sequence."""

from __future__ import annotations

from torch import Tensor

from megacode.kernels.counter_random import HiddenDropout
from megacode.layers.spec import Copied, LayerContext, ParamSpec, ShardedModule


class LayerNorm(ShardedModule):
    """[b, s/tp, h] -> [b, s/tp, h], statistics in fp32."""

    def __init__(self, context: LayerContext, name: str, width: int, eps: float) -> None:
        super().__init__(context)
        self.eps = eps
        self.weight = self.new_parameter("weight", ParamSpec(f"{name}.weight", (width,), Copied(), constant=1.0))
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", (width,), Copied()))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dim of `x` [b, s/tp, h]."""
        return self.context.kernels.layer_norm(x, self.weight, self.bias, self.eps)

    def of_sum(
        self, branch: Tensor, branch_bias: Tensor, residual: Tensor, dropout: HiddenDropout | None
    ) -> tuple[Tensor, Tensor]:
        """residual + dropout(branch + branch_bias), and that normalized: both [b, s/tp, h], in one operation."""
        return self.context.kernels.add_layer_norm(
            branch, branch_bias, residual, dropout, self.weight, self.bias, self.eps
        )
