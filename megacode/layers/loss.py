"""Output projection and cross entropy in one, over a vocabulary that is cut over the ranks.

Logits are made, turned into loss and into their own gradient chunk by chunk of tokens, so that they never exist whole
in fp32, and are never gathered (Shoeybi et al. 2019, section 3). With l_r the log-sum-exp of rank r's own logits,

    loss = logsumexp_r(l_r) - x_target
    gradient of x_j, on rank r = softmax_r(x)_j exp(l_r - logsumexp(l)) - [j = target]

so that one small gather per chunk is all that the ranks tell each other. The gradient is made in the forward pass,
while the logits are at hand: what multiplies the loss has to be known by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from megacode.layers.spec import LayerContext
from megacode.layers.weight_gradients import add_product
from megacode.parallel.collectives import all_gather_stacked
from megacode.parallel.groups import Group

# Logits that are kept in the weights' dtype for one product of the weight's gradient, bytes, and those in fp32 at once.
_KEPT_BYTES = MappingProxyType({"cpu": 1 << 26, "cuda": 1 << 28})
_WIDE_LOGITS = MappingProxyType({"cpu": 1 << 20, "cuda": 1 << 25})


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, tp: Group) -> Tensor:
    """The weighted sum of token losses in nats, fp32 scalar.

    x [rows, h], weight [v/tp, h], targets int64 [rows] of the whole vocabulary, weights fp32 [rows].
    """
    total = torch.zeros((), device=x.device)
    for part in _parts(len(x), len(weight), _WIDE_LOGITS[x.device.type]):
        total += (_Chunk(x[part] @ weight.mT, targets[part], tp).losses * weights[part]).sum()
    return total


def cross_entropy_and_gradients(
    x: Tensor, weight: nn.Parameter, targets: Tensor, weights: Tensor, scale: Tensor, context: LayerContext
) -> tuple[Tensor, Tensor]:
    """`cross_entropy`, and the gradient of `scale` times it for `x`, [rows, h]: this rank's part of a sum over tp.

    The gradient of the weight is added to the weight's.
    """
    tp = context.tp
    total, grad_x = torch.zeros((), device=x.device), torch.empty_like(x)
    for kept in _parts(len(x), len(weight), _KEPT_BYTES[x.device.type] // x.element_size()):
        logits = x[kept] @ weight.mT
        for part in _parts(len(logits), len(weight), _WIDE_LOGITS[x.device.type]):
            rows = slice(kept.start + part.start, kept.start + part.stop)
            chunk = _Chunk(logits[part], targets[rows], tp)
            total += (chunk.losses * weights[rows]).sum()
            logits[part] = chunk.gradient(weights[rows] * scale)
        torch.mm(logits, weight, out=grad_x[kept])
        context.weight_gradients.do(partial(add_product, weight, logits, x[kept]), weight)
    return total, grad_x


class _Chunk:
    """Logits [rows, v/tp] of some tokens; `losses` fp32 [rows]."""

    def __init__(self, logits: Tensor, targets: Tensor, tp: Group) -> None:
        width = logits.shape[-1]
        local = targets - tp.index * width
        self._is_elsewhere = (local < 0) | (local >= width)
        self._local = local.masked_fill(self._is_elsewhere, 0).unsqueeze(-1)
        wide = logits.float()
        self._softmax = torch.softmax(wide, dim=-1)
        # Of the largest logit x, softmax is exp(x - l), at least 1 / width: nothing is lost in the logarithm.
        own_sum = wide.amax(dim=-1) - self._softmax.amax(dim=-1).log()
        target = wide.gather(-1, self._local).squeeze(-1).masked_fill(self._is_elsewhere, 0.0)
        sums, target_parts = all_gather_stacked(torch.stack([own_sum, target]), tp).unbind(dim=1)
        whole_sum = sums.logsumexp(dim=0)
        self._share = (own_sum - whole_sum).exp()
        self.losses = whole_sum - target_parts.sum(dim=0)

    def gradient(self, factors: Tensor) -> Tensor:
        """Of the sum of `factors` [rows] times the losses, for the logits; written over what is kept of them."""
        gradient = self._softmax.mul_((self._share * factors).unsqueeze(-1))
        own = factors.masked_fill(self._is_elsewhere, 0.0).unsqueeze(-1)
        return gradient.scatter_add_(-1, self._local, -own)


def _parts(rows: int, width: int, most_elements: int) -> Iterator[slice]:
    """`rows` in as few nearly equal parts as keep a part of `width` columns within `most_elements`."""
    highest = max(1, most_elements // width)
    height = -(-rows // -(-rows // highest))
    return (slice(start, min(start + height, rows)) for start in range(0, rows, height))
