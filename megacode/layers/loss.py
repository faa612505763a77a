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

from megacode.kernels.dispatch import VocabCrossEntropy
from megacode.layers.spec import LayerContext
from megacode.layers.weight_gradients import add_product
from megacode.parallel.collectives import all_gather_stacked
from megacode.parallel.groups import Group

# Logits that are kept in the weights' dtype for one product of the weight's gradient, bytes, and those in fp32 at once.
_KEPT_BYTES = MappingProxyType({"cpu": 1 << 26, "cuda": 1 << 28})
_WIDE_LOGITS = MappingProxyType({"cpu": 1 << 20, "cuda": 1 << 25})


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, context: LayerContext) -> Tensor:
    """The weighted sum of token losses in nats, fp32 scalar.

    x [rows, h], weight [v/tp, h], targets int64 [rows] of the whole vocabulary, weights fp32 [rows].
    """
    total, local = torch.zeros((), device=x.device), targets - context.tp.index * len(weight)
    for part in _parts(len(x), len(weight), _WIDE_LOGITS[x.device.type]):
        losses, _ = _over_ranks(context.kernels.cross_entropy(x[part] @ weight.mT, local[part]), context.tp)
        total += (losses * weights[part]).sum()
    return total


def cross_entropy_and_gradients(
    x: Tensor, weight: nn.Parameter, targets: Tensor, weights: Tensor, scale: Tensor, context: LayerContext
) -> tuple[Tensor, Tensor]:
    """`cross_entropy`, and the gradient of `scale` times it for `x`, [rows, h]: this rank's part of a sum over tp.

    The gradient of the weight is added to the weight's.
    """
    total, grad_x = torch.zeros((), device=x.device), torch.empty_like(x)
    local, factors = targets - context.tp.index * len(weight), weights * scale
    for kept in _parts(len(x), len(weight), _KEPT_BYTES[x.device.type] // x.element_size()):
        logits = x[kept] @ weight.mT
        for part in _parts(len(logits), len(weight), _WIDE_LOGITS[x.device.type]):
            rows = slice(kept.start + part.start, kept.start + part.stop)
            own = context.kernels.cross_entropy(logits[part], local[rows])
            losses, whole_log_sums = _over_ranks(own, context.tp)
            total += (losses * weights[rows]).sum()
            own.write_gradient(whole_log_sums, factors[rows])
        torch.mm(logits, weight, out=grad_x[kept])
        context.weight_gradients.do(partial(add_product, weight, logits, x[kept]), weight)
    return total, grad_x


def _over_ranks(own: VocabCrossEntropy, tp: Group) -> tuple[Tensor, Tensor]:
    """Losses, and the log-sum-exp of all ranks' logits: fp32 [rows] each."""
    sums, targets = all_gather_stacked(torch.stack([own.log_sums, own.target_logits]), tp).unbind(dim=1)
    whole_log_sums = sums.logsumexp(dim=0)
    return whole_log_sums - targets.sum(dim=0), whole_log_sums


def _parts(rows: int, width: int, most_elements: int) -> Iterator[slice]:
    """`rows` in as few nearly equal parts as keep a part of `width` columns within `most_elements`."""
    highest = max(1, most_elements // width)
    height = -(-rows // -(-rows // highest))
    return (slice(start, min(start + height, rows)) for start in range(0, rows, height))
