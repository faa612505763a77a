"""Recomputation changes no bit and keeps what the plan says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from live import LiveMemory
from tiny import tiny_config
from torch import Tensor

from megacode.config.schema import RunConfig
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.recompute import thrown_away
from megacode.plan import block_bytes
from megacode.prove.outcome import assemble_synthetic, compute

DROPOUT = {"layers": 3, "attention_dropout": 0.1, "hidden_dropout": 0.1}
ROTARY = {"layers": 3, "kv_heads": 2, "positions": "rotary", "window": 8}


def config_of(model: dict[str, Any], recompute: str, blocks: int | None = None, **sections: Any) -> RunConfig:
    """The tiny run of three steps."""
    train = {"recompute": recompute, "recompute_blocks": blocks, "steps": 3, "micro_batch": 2}
    return tiny_config(model=model, train=train, **sections)


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        (DROPOUT, {}),
        (DROPOUT, {"parallel": {"tp": 2, "pp": 2}}),
        (ROTARY, {"parallel": {"pp": 3, "schedule": "gpipe"}, "data": {"document_mask": True}}),
    ],
)
def test_every_mode_gives_the_same_bits(model: dict[str, Any], sections: dict[str, Any]) -> None:
    """Dropout too is drawn again as it was; also where only the first block of each stage recomputes."""
    kept = compute(config_of(model, "none", **sections))
    for recompute, blocks in (("selective", None), ("full", None), ("selective", 1)):
        again = compute(config_of(model, recompute, blocks, **sections))
        assert (again.losses, again.norms) == (kept.losses, kept.norms), recompute
        for name, gradient in kept.gradients.items():
            np.testing.assert_array_equal(again.gradients[name], gradient, err_msg=f"{recompute}: {name}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("model", [{}, {**ROTARY, "window": None}, {"kv_heads": 4, **DROPOUT}], ids=str)
def test_a_block_keeps_what_the_plan_counts(model: dict[str, Any], recompute: str, precision: str) -> None:
    """Bytes that live after a forward pass, against the formula, to 3 %."""
    config = config_of(model, recompute)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    stage = assemble_synthetic(config, 0).stage
    x = torch.randn(2, 32, 48, dtype=stage.dtype, requires_grad=True)
    with LiveMemory() as live:
        out = stage.chunks[0].blocks[0](x, ForwardPass(Draw(1, 2, 3)))
    # The block's output stands for its input, which was there before: the next block's, of as many bytes.
    assert live.bytes == pytest.approx(block_bytes(config, config.train.recompute), rel=0.03)
    assert out.nbytes == x.nbytes


def test_each_mode_keeps_less_and_a_few_blocks_lie_between() -> None:
    kept = {}
    for recompute, blocks in (("none", None), ("selective", 1), ("selective", None), ("full", 2), ("full", None)):
        stage = assemble_synthetic(config_of({"layers": 3}, recompute, blocks), 0).stage
        x = torch.randn(2, 32, 48, requires_grad=True)
        with LiveMemory() as live:
            out = stage.chunks[0](x, ForwardPass())
        kept[recompute, blocks] = live.bytes
        assert out.requires_grad
    none, selective, full = (kept[mode, None] for mode in ("none", "selective", "full"))
    assert selective < 0.62 * none and full < none / 10
    assert kept["selective", 1] == none - (none - selective) // 3
    assert kept["full", 2] == none - 2 * (none - full) // 3


def test_nothing_is_recomputed_in_evaluation() -> None:
    stage = assemble_synthetic(config_of({}, "selective"), 0).stage.chunks[0]
    with torch.no_grad(), LiveMemory() as live:
        out = stage(torch.randn(1, 32, 48), ForwardPass())
    assert live.bytes == out.nbytes


class _Product(torch.autograd.Function):
    """A layer that saves its input itself, a view of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x.flatten(0, 1)[2:].mT, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        columns, weight = ctx.saved_tensors
        return grad @ weight.mT, columns @ grad.flatten(0, 1)[2:]


def _through_two_products(is_asked: bool) -> tuple[list[Tensor], int]:
    """Gradients, and calls of the cheap function until backward's end."""
    torch.manual_seed(0)
    x, first, second = torch.randn(2, 5, 4), torch.randn(4, 3), torch.randn(4, 3)
    leaves = [leaf.requires_grad_() for leaf in (x, first, second)]
    calls: list[int] = []

    def cheap(inside: Tensor) -> Tensor:
        calls.append(1)
        return torch.tanh(inside * 2.0)

    output = cheap(x)
    with thrown_away(is_asked, output, cheap, x):
        y = _Product.apply(output, first) * _Product.apply(output, second)
    return list(torch.autograd.grad(y.sum(), leaves)), len(calls)


def test_layers_that_save_the_output_themselves_share_one_recomputation() -> None:
    kept, calls = _through_two_products(False)
    again, calls_again = _through_two_products(True)
    assert (calls, calls_again) == (1, 2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, kept, strict=True))


def test_an_input_changed_in_place_is_noticed() -> None:
    x = torch.randn(3, 3, requires_grad=True) * 1.0
    output = torch.relu(x)
    with thrown_away(True, output, torch.relu, x):
        y = output @ torch.ones(3, 3, requires_grad=True)
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(AssertionError, match="changed in place"):
        y.sum().backward()
