"""Linear layers cut over tensor-parallel ranks (Shoeybi et al. 2019, section 3): Y = X A^T + b.

Column parallel: A^T = [A_1 .. A_t], each rank computes its columns of Y from the whole X.
Row parallel: X = [X_1 .. X_t] and A^T stacked, Y = sum of X_i A_i; each rank gets its part of the sequence of Y.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from megacode.layers.spec import Copied, LayerContext, ParamSpec, ShardedModule, Split
from megacode.parallel.collectives import reduce_scatter_sequence


class ColumnParallelLinear(ShardedModule):
    """[b, s, in] on every rank -> [b, s, out/tp]; the caller has gathered the sequence."""

    def __init__(self, context: LayerContext, name: str, width_in: int, width_out: int, std: float) -> None:
        super().__init__(context)
        weight = ParamSpec(f"{name}.weight", (width_out, width_in), Split(0), std=std, decay=True)
        self.weight = self.new_parameter("weight", weight)
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", (width_out,), Split(0)))

    def forward(self, x: Tensor) -> Tensor:
        """[b, s, in] -> [b, s, out/tp]."""
        return functional.linear(x, self.weight, self.bias)


class RowParallelLinear(ShardedModule):
    """[b, s, in/tp] -> [b, s/tp, out]: the partial products are summed and cut along the sequence in one collective.

    The bias is added once, after the sum, to this rank's part of the sequence.
    """

    def __init__(self, context: LayerContext, name: str, width_in: int, width_out: int, std: float) -> None:
        super().__init__(context)
        weight = ParamSpec(f"{name}.weight", (width_out, width_in), Split(1), std=std, decay=True)
        self.weight = self.new_parameter("weight", weight)
        self.bias = self.new_parameter("bias", ParamSpec(f"{name}.bias", (width_out,), Copied()))

    def forward(self, x: Tensor) -> Tensor:
        """[b, s, in/tp] -> [b, s/tp, out]."""
        if self.context.tp.size == 1:
            return functional.linear(x, self.weight, self.bias)
        return reduce_scatter_sequence(functional.linear(x, self.weight), self.context.tp) + self.bias
