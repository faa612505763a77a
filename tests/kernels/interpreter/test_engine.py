"""The engine trains on the interpreted kernels and gets the losses of the torch path, dropout included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import tiny_config

from megacode.prove.outcome import assemble_synthetic
from megacode.train.step import train_step

STARCODER = {"hidden": 32, "heads": 2, "attention_dropout": 0.1, "hidden_dropout": 0.1}
STARCODER2 = {"hidden": 32, "heads": 2, "positions": "rotary", "kv_heads": 2, "window": 12, "tied": False}


def losses(implementation: str, model: dict[str, Any], document_mask: bool, recompute: str) -> list[float]:
    """Five steps of a small run on one rank."""
    config = tiny_config(
        model=model,
        data={"document_mask": document_mask},
        train={"steps": 5, "global_batch": 2, "recompute": recompute},
        optim={"lr_warmup": 1},
        kernels={"implementation": implementation},
    )
    run = assemble_synthetic(config, 0)
    return [train_step(run, step, False).loss for step in range(1, 6)]


@pytest.mark.parametrize(
    ("model", "document_mask", "recompute"),
    [(STARCODER, False, "none"), (STARCODER2, True, "selective")],
    ids=["starcoder", "starcoder2"],
)
def test_losses_are_those_of_torch(model: dict[str, Any], document_mask: bool, recompute: str) -> None:
    interpreted, torch = (losses(name, model, document_mask, recompute) for name in ("triton", "torch"))
    np.testing.assert_allclose(interpreted, torch, rtol=1e-5)
