"""Promise 1 at its root: the one process that layouts are held to learns, and how a step is scheduled changes no bit.

Layouts beside one process: tests/prove/test_verify.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import tiny_config

from megacode.prove.outcome import Outcome, compute


def test_one_process_learns() -> None:
    found = compute(tiny_config())
    assert found.losses[-1] < found.losses[0]
    assert all(np.abs(gradient).max() > 0 for gradient in found.gradients.values()), "every parameter has a gradient"


@pytest.fixture(scope="module")
def plain() -> dict[int, Outcome]:
    """By tensor-parallel ranks, what 1F1B computes on two stages."""
    return {tp: train(tp, "1f1b") for tp in (1, 2)}


def train(tp: int, schedule: str) -> Outcome:
    """Three steps of three micro-batches; `clip` is so high that nothing depends on the norm's last bit."""
    sections: dict[str, Any] = {
        "model": {"layers": 4, "kv_heads": 2, "tied": False, "hidden_dropout": 0.1},
        "optim": {"clip": 1e6},
        "train": {"steps": 3, "global_batch": 3},
        "parallel": {"tp": tp, "pp": 2, "schedule": schedule},
    }
    return compute(tiny_config(**sections))


@pytest.mark.parametrize("schedule", ["gpipe", "interleaved", "zb-h1", "zb-v"])
@pytest.mark.parametrize("tp", [1, 2])
def test_a_schedule_changes_no_bit(tp: int, schedule: str, plain: dict[int, Outcome]) -> None:
    """Whatever the order of passes, each parameter's gradients are added micro-batch after micro-batch.

    With tp 2, halves of backward that are held back gather again what they need.
    """
    found = train(tp, schedule)
    assert found.losses == plain[tp].losses and found.ranks_agree
    np.testing.assert_allclose(found.norms, plain[tp].norms, rtol=1e-7)
    for name, gradient in plain[tp].gradients.items():
        np.testing.assert_array_equal(found.gradients[name], gradient, err_msg=name)
