"""Promise 1: every layout computes the same model as one process."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_config

from megacode.prove.outcome import Outcome, compute

EIGHT = [(tp, pp, dp) for tp in (1, 2) for pp in (1, 2) for dp in (1, 2)]


def train(model: dict | None = None, **parallel: object) -> Outcome:
    """Ten steps of the tiny run in the given layout."""
    return compute(tiny_config(model=model or {}, parallel=parallel))


@pytest.fixture(scope="module")
def reference() -> Outcome:
    """What one process computes."""
    return train()


def assert_same(other: Outcome, reference: Outcome) -> None:
    """Same initial weights bit for bit; first gradients, norms and losses to rounding; no element left out."""
    assert other.ranks_agree, "ranks tell different losses or norms"
    assert other.weights.keys() == reference.weights.keys()
    for name, weights in reference.weights.items():
        np.testing.assert_array_equal(other.weights[name], weights, err_msg=f"initial {name}")
    for name, gradient in reference.gradients.items():
        error = np.abs(other.gradients[name] - gradient).max() / np.abs(gradient).max()
        assert error <= 1e-5, f"gradient of {name}: relative error {error:.2e}"
    np.testing.assert_allclose(other.norms[0], reference.norms[0], rtol=1e-5, err_msg="gradient norm of step 1")
    np.testing.assert_allclose(other.losses[0], reference.losses[0], rtol=1e-5, err_msg="loss of step 1")
    np.testing.assert_allclose(other.losses, reference.losses, rtol=1e-4, err_msg="losses of 10 steps")
    np.testing.assert_allclose(other.norms, reference.norms, rtol=1e-3, err_msg="gradient norms of 10 steps")


def test_one_process_learns(reference: Outcome) -> None:
    assert reference.losses[-1] < reference.losses[0]
    assert all(np.abs(gradient).max() > 0 for gradient in reference.gradients.values()), (
        "every parameter has a gradient"
    )


@pytest.mark.parametrize(("tp", "pp", "dp"), EIGHT)
def test_layout_equals_one_process(tp: int, pp: int, dp: int, reference: Outcome) -> None:
    assert_same(train(tp=tp, pp=pp, dp=dp), reference)


def test_gpipe_and_replica_order(reference: Outcome) -> None:
    assert_same(train(tp=2, pp=2, dp=2, order="tp-pp-dp", schedule="gpipe"), reference)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_grouped_and_multi_head_attention(kv_heads: int) -> None:
    model = {"kv_heads": kv_heads}
    assert_same(train(model, tp=2, pp=2), train(model))


def test_more_tensor_ranks_than_key_value_heads() -> None:
    assert_same(train({"kv_heads": 2}, tp=4), train({"kv_heads": 2}))


def test_dropout_is_the_same_in_every_layout() -> None:
    model = {"attention_dropout": 0.1, "hidden_dropout": 0.1, "embedding_dropout": 0.1}
    assert_same(train(model, tp=2, pp=2, dp=2), train(model))


def test_uneven_stages() -> None:
    assert_same(train({"layers": 3}, pp=2, tp=2), train({"layers": 3}))
