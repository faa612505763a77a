"""Cross entropy over a vocabulary that is cut over the ranks, without ever gathering the logits (Shoeybi et al. 2019).

loss = log(sum_j exp(x_j - m)) - (x_target - m), with the maximum m and the sum taken over all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megacode.parallel.collectives import all_max_, all_sum_
from megacode.parallel.groups import Group


def vocab_parallel_cross_entropy(logits: Tensor, targets: Tensor, tp: Group) -> Tensor:
    """Loss per token, fp32 [b, s], in nats, from this rank's logits [b, s, v/tp] and global target ids [b, s]."""
    return _VocabParallelCrossEntropy.apply(logits, targets, tp)


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, tp: Group) -> Tensor:
        width = logits.shape[-1]
        largest = all_max_(logits.amax(dim=-1).float(), tp)
        shifted = logits.float() - largest.unsqueeze(-1)
        local = targets - tp.index * width
        is_elsewhere = (local < 0) | (local >= width)
        local = local.masked_fill(is_elsewhere, 0).unsqueeze(-1)
        target = shifted.gather(-1, local).squeeze(-1).masked_fill(is_elsewhere, 0.0)
        exponent = shifted.exp_()
        sums = all_sum_(torch.stack([exponent.sum(dim=-1), target]), tp)
        probability = exponent.div_(sums[0].unsqueeze(-1))
        ctx.save_for_backward(probability, local, is_elsewhere)
        ctx.dtype = logits.dtype
        return sums[0].log() - sums[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        probability, local, is_elsewhere = ctx.saved_tensors
        # The gradient is written over the probabilities, which nobody reads again.
        own = (~is_elsewhere).to(probability.dtype).unsqueeze(-1)
        probability.scatter_add_(-1, local, -own)
        return probability.mul_(grad.unsqueeze(-1)).to(ctx.dtype), None, None
