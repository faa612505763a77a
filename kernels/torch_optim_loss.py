"""Cross entropy over a part of the vocabulary, AdamW and sums of squares on torch's own kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw as torch_adamw

_ROW = 4096  # elements whose squares are summed in fp32


@dataclass(frozen=True)
class AdamWHyper:
    """What AdamW is told for an update: learning rate, decay rates of the averages, eps, and decay of the weights."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class VocabCrossEntropy(Protocol):
    """What `reference.vocab_cross_entropy` gives: the part of a cross entropy that one part of the vocabulary knows.

    log_sums:       log-sum-exp of the own logits of each row, fp32 [rows].
    target_logits:  the target's logit, fp32 [rows]; 0 where the target is elsewhere.
    """

    log_sums: Tensor
    target_logits: Tensor

    def write_gradient(self, whole_log_sums: Tensor, factors: Tensor) -> Tensor:
        """The gradient of the sum of `factors` times the losses for the logits, [rows, w] in their dtype and memory.

        (exp(logit - whole log-sum-exp) - [column = target]) * factor; `whole_log_sums` are over the whole vocabulary,
        fp32 [rows] as the factors. To be called once, since the logits are gone then.
        """


class _VocabCrossEntropy:
    """Keeps one softmax in fp32, which becomes the gradient."""

    def __init__(self, logits: Tensor, local_targets: Tensor) -> None:
        self._logits = logits
        self._is_elsewhere = (local_targets < 0) | (local_targets >= logits.shape[-1])
        self._local = local_targets.masked_fill(self._is_elsewhere, 0).unsqueeze(-1)
        wide = logits.float()
        self._softmax = torch.softmax(wide, dim=-1)
        # Of the largest logit x, softmax is exp(x - l), at least 1 / width: nothing is lost in the logarithm.
        self.log_sums = wide.amax(dim=-1) - self._softmax.amax(dim=-1).log()
        self.target_logits = wide.gather(-1, self._local).squeeze(-1).masked_fill(self._is_elsewhere, 0.0)

    def write_gradient(self, whole_log_sums: Tensor, factors: Tensor) -> Tensor:
        share = (self.log_sums - whole_log_sums).exp()
        gradient = self._softmax.mul_((share * factors).unsqueeze(-1))
        own = factors.masked_fill(self._is_elsewhere, 0.0).unsqueeze(-1)
        return self._logits.copy_(gradient.scatter_add_(-1, self._local, -own))


def vocab_cross_entropy(logits: Tensor, local_targets: Tensor) -> VocabCrossEntropy:
    """`reference.vocab_cross_entropy`; one softmax in fp32, as large as `logits`, is kept for the gradient.

    Shapes: logits [rows, w], local_targets int64 [rows].
    """
    return _VocabCrossEntropy(logits, local_targets)


def adamw(
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    weights: Tensor | None,
    hyper: AdamWHyper,
    update: int,
    divisor: Tensor | None,
) -> None:
    """`reference.adamw` by torch's fused AdamW, which leaves the gradient divided, and a copy to the weights.

    Shapes: master, exp_avg, exp_avg_sq and gradient fp32 [n], weights [n] of any float dtype, divisor fp32 scalar.
    """
    torch_adamw(
        [master],
        [gradient],
        [exp_avg],
        [exp_avg_sq],
        [],
        [torch.full((), float(update - 1), device=master.device)],
        fused=True,
        grad_scale=divisor,
        amsgrad=False,
        beta1=hyper.beta1,
        beta2=hyper.beta2,
        lr=hyper.lr,
        weight_decay=hyper.weight_decay,
        eps=hyper.eps,
        maximize=False,
    )
    if weights is not None:
        weights.copy_(master)


def sum_of_squares(x: Tensor) -> Tensor:
    """`reference.sum_of_squares`: short rows are summed in fp32, their sums in fp64.

    Shapes: x fp32 [n]; returns an fp64 scalar.
    """
    whole = len(x) // _ROW * _ROW
    rows = torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1)
    rest = torch.linalg.vector_norm(x[whole:], dtype=torch.float64)
    return rows.double().square().sum() + rest.square()


def scale_(x: Tensor, divisor: Tensor) -> None:
    """`reference.scale_`. Shapes: x fp32 [n], divisor fp32 scalar."""
    x.div_(divisor)
