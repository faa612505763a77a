"""Weight gradients that are held back are the same bits as those added at once, and nobody hears of them before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_config
from torch import Tensor, nn

from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.weight_gradients import WeightGradients, add_product, add_row_sum, add_rows
from megacode.prove.outcome import assemble_synthetic

MODELS: list[dict[str, Any]] = [
    {"kv_heads": 1, "hidden_dropout": 0.1},
    {"kv_heads": 2, "positions": "rotary", "window": 5, "tied": False},
    {"kv_heads": 4, "attention_dropout": 0.1},
]


def backward(config: Any, is_held_back: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], list[int]]:
    """Two passes through a stage; gradients before and after the second halves, and how many additions were told of."""
    run = assemble_synthetic(config, 0)
    stage, told = run.stage, [0, 0]
    stage.weight_gradients.listen(lambda parameter: told.append(told.pop() + 1))
    run.optimizer.begin(2)
    before: dict[str, Tensor] = {}
    for index in range(2):
        batch = run.batches(run.prefetcher, 0)[index]
        forward_pass, (chunk,) = ForwardPass(Draw(1, 1, index)), stage.chunks
        x = chunk(chunk.embed(batch.tokens, batch.positions, forward_pass.draw), forward_pass)
        gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(index))
        if not is_held_back:
            x.backward(gradient)
            continue
        with stage.weight_gradients.held_back() as second_halves:
            assert stage.weight_gradients.holds_back
            x.backward(gradient)
        if index == 0:
            before = {name: grad.clone() for name, grad in run.optimizer.gradients.by_name.items()}
            told[0] = told[1]
        for second_half in second_halves:
            second_half()
    for _, parameter in stage.specs():
        assert parameter.grad is not None and not parameter.grad.requires_grad, "no graph is recorded"
    return before, {name: grad.clone() for name, grad in run.optimizer.gradients.by_name.items()}, told


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_held_back_is_bit_for_bit_the_same(model: dict[str, Any], precision: str, recompute: str) -> None:
    config = tiny_config(model=model, train={"precision": precision, "recompute": recompute})
    _, at_once, told_at_once = backward(config, False)
    before, held_back, told = backward(config, True)
    for name, gradient in at_once.items():
        assert torch.equal(held_back[name], gradient), name
        assert name in ("head.weight", "final_norm.weight", "final_norm.bias") or gradient.any(), name
        is_vector = "_norm." in name or name.endswith(("out.bias", "up.bias", "down.bias"))
        assert bool(before[name].any()) == (is_vector and "final" not in name), f"{name} before the second halves"
    assert told[0] == 0 and told[1] == told_at_once[1] > 0


def test_listeners_hear_after_each_addition() -> None:
    gradients, weight, heard = WeightGradients(), nn.Parameter(torch.zeros(2)), []
    weight.grad = torch.zeros(2)
    gradients.listen(lambda parameter: heard.append((parameter is weight, parameter.grad.tolist())))
    gradients.do(lambda: weight.grad.add_(1.0), weight)
    with gradients.held_back() as second_halves:
        gradients.do(lambda: weight.grad.add_(1.0), weight)
        assert len(heard) == 1
    assert not gradients.holds_back
    second_halves[0]()
    assert heard == [(True, [1.0, 1.0]), (True, [2.0, 2.0])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("starts", ["with a gradient", "without"])
def test_sums_of_products_and_rows(dtype: torch.dtype, starts: str) -> None:
    """Against fp64; with a gradient, which is fp32 whatever the weights are, they add to it."""
    random = torch.Generator().manual_seed(1)
    left, right = (torch.randn(6, width, generator=random).to(dtype) for width in (4, 3))
    indices = torch.tensor([[1, 3, 1], [0, 1, 3]])
    weight, bias, table = (nn.Parameter(torch.zeros(*shape, dtype=dtype)) for shape in ((2, 2, 3), (2, 2), (5, 3)))
    own = 1.0 if starts == "with a gradient" else 0.0
    for parameter in (weight, bias, table):
        parameter.grad_dtype = None
        if own:
            parameter.grad = torch.ones(parameter.shape)
    with torch.no_grad():
        add_product(weight, left, right)
        add_row_sum(bias, left)
        add_rows(table, indices, right.view(2, 3, 3))
    looked_up = torch.zeros(5, 3, dtype=torch.float64).index_add_(0, indices.flatten(), right.double())
    expected = (left.double().mT @ right.double(), left.double().sum(0), looked_up)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for parameter, value in zip((weight, bias, table), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad.double(), value.view(parameter.shape) + own, rtol=tolerance, atol=tolerance
        )
