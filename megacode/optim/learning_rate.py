"""The learning rate as a function of the step: linear warm-up, then one of five ways down to a floor.

With t = (step - warm-up) / (decay - warm-up), the share of the decay that is done, lr_min + f (lr - lr_min) where

    cosine      f = (1 + cos(pi t)) / 2     (Loshchilov and Hutter 2017, without restarts)
    linear      f = 1 - t
    polynomial  f = (1 - t)^lr_power

and, without an end, of the step itself

    constant             lr
    inverse_square_root  lr (warm-up / step)^(1/2), not below lr_min    (Vaswani et al. 2017, section 5.3)
"""

from __future__ import annotations

import math

from megacode.config.schema import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The rate of optimizer step `step`, counted from 1, as Megatron's scheduler has it.

    During warm-up it is lr * step / lr_warmup; after lr_decay steps it stays at lr_min.
    """
    optim = config.optim
    if step <= optim.lr_warmup:
        return optim.lr * step / optim.lr_warmup
    if optim.lr_schedule == "constant":
        return optim.lr
    if optim.lr_schedule == "inverse_square_root":
        return max(optim.lr_min, optim.lr * math.sqrt(max(optim.lr_warmup, 1) / step))
    decay = optim.lr_decay or config.train.steps
    left = 1.0 - min(1.0, (step - optim.lr_warmup) / (decay - optim.lr_warmup))
    if optim.lr_schedule == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    elif optim.lr_schedule == "polynomial":
        left = left**optim.lr_power
    return optim.lr_min + left * (optim.lr - optim.lr_min)
