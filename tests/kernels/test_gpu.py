"""On a GPU the engine trains on the Triton kernels and gets the losses of the torch path; skipped without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config

from megacode.kernels.dispatch import choose
from megacode.parallel.groups import single_rank
from megacode.pipeline.runner import observe_nothing
from megacode.prove.synthetic import synthetic_plan
from megacode.train.assemble import assemble
from megacode.train.feed import Feed
from megacode.train.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STARCODER = {"hidden": 256, "heads": 4, "ffn": 1024, "attention_dropout": 0.1, "hidden_dropout": 0.1}
STARCODER2 = {"hidden": 256, "heads": 4, "kv_heads": 2, "positions": "rotary", "window": 24, "tied": False}


def losses(
    implementation: str, model: dict[str, Any], precision: str, data: dict[str, Any], recompute: str
) -> list[float]:
    """Five steps on one GPU."""
    config = tiny_config(
        model=model,
        data=data,
        train={"precision": precision, "steps": 5, "recompute": recompute},
        optim={"lr_warmup": 1},
    )
    device = torch.device("cuda")
    feed = Feed(synthetic_plan(config), {}, "")
    run = assemble(config, single_rank(), feed, choose(implementation, "cuda"), device, observe_nothing)
    return [train_step(run, step, False).loss for step in range(1, 6)]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("bf16", 1e-2), ("fp16", 3e-3)])
@pytest.mark.parametrize(
    ("model", "data", "recompute"),
    [
        (STARCODER, {}, "none"),
        (STARCODER, {"document_mask": True}, "selective"),
        (STARCODER2, {}, "full"),
        (STARCODER2, {"document_mask": True}, "none"),
    ],
)
def test_losses_are_those_of_torch(
    model: dict[str, Any], data: dict[str, Any], recompute: str, precision: str, tolerance: float
) -> None:
    actual, expected = (losses(name, model, precision, data, recompute) for name in ("triton", "torch"))
    np.testing.assert_allclose(actual, expected, rtol=tolerance)
