"""AdamW is torch's, update after update, and the weights are the rounded masters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import reference
from megacode.kernels.adamw import adamw
from megacode.kernels.torch_optim_loss import AdamWHyper

Check = Callable[[str, Tensor, Tensor, float], None]


def make_state(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Master and two averages, as a run begins."""
    master = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return master, torch.zeros(length), torch.zeros(length)


@pytest.mark.parametrize("divisor", [None, 2.5])
@pytest.mark.parametrize(
    ("length", "hyper"),
    [
        (64, AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1)),
        (3000, AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.0)),
        (2048, AdamWHyper(0.1, 0.8, 0.999, 1e-2, 0.5)),  # eps as large as deviations: inside or outside matters
    ],
)
def test_several_updates_are_torchs(length: int, hyper: AdamWHyper, divisor: float | None, assert_close: Check) -> None:
    master, exp_avg, exp_avg_sq = make_state(length)
    other = torch.nn.Parameter(master.double())
    optimizer = torch.optim.AdamW(
        [other], hyper.lr, (hyper.beta1, hyper.beta2), hyper.eps, hyper.weight_decay, foreach=False
    )
    by = None if divisor is None else torch.tensor(divisor)
    for update in range(1, 6):
        gradient = torch.randn(length, generator=torch.Generator().manual_seed(update))
        other.grad = gradient.double() / (divisor or 1.0)
        before = gradient.clone()
        optimizer.step()
        adamw(master, exp_avg, exp_avg_sq, gradient, None, hyper, update, by)
        assert torch.equal(gradient, before)
        assert_close("master", master, other.detach(), 1e-6)
        assert_close("exp_avg", exp_avg, optimizer.state[other]["exp_avg"], 1e-6)
        assert_close("exp_avg_sq", exp_avg_sq, optimizer.state[other]["exp_avg_sq"], 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_the_rounded_masters(dtype: torch.dtype) -> None:
    state, weights = make_state(1500), torch.full((1500,), float("nan"), dtype=dtype)
    hyper = AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1)
    adamw(*state, torch.randn(1500), weights, hyper, 1, torch.tensor(3.0))
    assert torch.equal(weights, state[0].to(dtype))


def test_agrees_with_reference_late_in_a_run_and_leaves_neighbours_alone(assert_close: Check) -> None:
    """Update 123,456, over slices of longer tensors; a learning rate of 0 moves the averages only."""
    hyper = AdamWHyper(0.0, 0.9, 0.95, 1e-8, 0.1)
    whole = [torch.rand(300) + 0.1 for _ in range(4)]
    slices = [tensor[64:164] for tensor in whole]
    expected = [tensor.clone() for tensor in slices]
    before = [tensor.clone() for tensor in whole]
    for chosen in (hyper, AdamWHyper(1e-3, 0.9, 0.95, 1e-8, 0.1)):
        adamw(*slices, None, chosen, 123_456, torch.tensor(0.5))
        reference.adamw(*expected, None, chosen, 123_456, torch.tensor(0.5))
        for got, want in zip(slices, expected, strict=True):
            assert_close("state", got, want, 1e-6)
        assert torch.equal(slices[0], before[0][64:164]) == (chosen is hyper)
    for now, then in zip(whole, before, strict=True):
        assert torch.equal(now[:64], then[:64]) and torch.equal(now[164:], then[164:])


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # numpy's, of the interpreter
def test_a_gradient_that_is_not_finite_shows() -> None:
    state = make_state(100)
    gradient = torch.ones(100)
    gradient[3] = float("inf")
    adamw(*state, gradient, None, AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1), 1, None)
    assert torch.isfinite(state[0]).logical_not().nonzero().flatten().tolist() == [3]


def test_refuses_what_it_cannot_read() -> None:
    hyper = AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1)
    state, gradient = make_state(8), torch.zeros(8)
    for wrong in (torch.zeros(7), torch.zeros(16)[::2], torch.zeros(8, 1)):
        with pytest.raises(ValueError, match=r"contiguous \[n\]"):
            adamw(*state, wrong, None, hyper, 1, None)
        with pytest.raises(ValueError, match=r"contiguous \[n\]"):
            adamw(*state, gradient, wrong, hyper, 1, None)
    with pytest.raises(ValueError, match="fp32"):
        adamw(*state, gradient.bfloat16(), None, hyper, 1, None)
    with pytest.raises(ValueError, match="count from 1"):
        adamw(*state, gradient, None, hyper, 0, None)
