"""The engine trains on the interpreted kernels and gets the losses of the torch path, dropout included."""

from __future__ import annotations

import numpy as np
from tiny import tiny_config

from megacode.prove.outcome import assemble_synthetic
from megacode.train.step import train_step


def losses(implementation: str) -> list[float]:
    """Three steps of a small run on one rank."""
    config = tiny_config(
        model={"hidden": 32, "heads": 2, "attention_dropout": 0.1},
        train={"steps": 3, "global_batch": 2},
        optim={"lr_warmup": 1},
        kernels={"implementation": implementation},
    )
    run = assemble_synthetic(config, 0)
    return [train_step(run, step, False).loss for step in range(1, 4)]


def test_losses_are_those_of_torch() -> None:
    np.testing.assert_allclose(losses("triton"), losses("torch"), rtol=1e-5)
