"""The learning rate as a function of the step: linear warm-up, then cosine, linear or no decay to a floor."""

from __future__ import annotations

import math

from megacode.config.schema import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The rate of optimizer step `step`, counted from 1, as Megatron's scheduler has it.

    During warm-up it is lr * step / lr_warmup; after lr_decay steps it stays at lr_min.
    """
    optim = config.optim
    decay = optim.lr_decay or config.train.steps
    if step <= optim.lr_warmup:
        return optim.lr * step / optim.lr_warmup
    if optim.lr_schedule == "constant":
        return optim.lr
    done = min(1.0, (step - optim.lr_warmup) / (decay - optim.lr_warmup))
    left = 0.5 * (1.0 + math.cos(math.pi * done)) if optim.lr_schedule == "cosine" else 1.0 - done
    return optim.lr_min + left * (optim.lr - optim.lr_min)
