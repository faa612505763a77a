"""On torch, cross entropy, AdamW and sums of squares are their definitions, and these are torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import reference, torch_optim_loss
from megacode.kernels.torch_optim_loss import AdamWHyper, VocabCrossEntropy

Over = Callable[[Tensor, Tensor], VocabCrossEntropy]
OVER = [reference.vocab_cross_entropy, torch_optim_loss.vocab_cross_entropy]
UPDATES = [reference.adamw, torch_optim_loss.adamw]


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_vocabulary_make_torchs_cross_entropy(over: Over, parts: int) -> None:
    torch.manual_seed(0)
    logits, targets = 4.0 * torch.randn(9, 30), torch.randint(0, 30, (9,))
    targets[:2] = torch.tensor([0, 29])
    factors = torch.linspace(-1.0, 1.0, 9)  # one of them 0
    leaf = logits.clone().requires_grad_()
    losses = functional.cross_entropy(leaf, targets, reduction="none")
    (expected,) = torch.autograd.grad(losses, leaf, factors)

    width = 30 // parts
    own = [over(part, targets - rank * width) for rank, part in enumerate(logits.split(width, dim=1))]
    whole = torch.stack([part.log_sums for part in own]).logsumexp(dim=0)
    torch.testing.assert_close(whole - sum(part.target_logits for part in own), losses)
    for part in own:
        part.write_gradient(whole, factors)
    torch.testing.assert_close(logits, expected)  # written over the logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_cross_entropy_agrees_with_reference(dtype: torch.dtype, shift: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(7, 50) + shift).to(dtype)
    targets, factors = torch.tensor([0, 49, -1, 50, 7, 8, 9]), torch.rand(7)
    actual, expected = torch_optim_loss.vocab_cross_entropy(logits, targets), OVER[0](logits.clone(), targets)
    assert actual.log_sums.dtype == actual.target_logits.dtype == torch.float32
    torch.testing.assert_close(actual.log_sums, expected.log_sums)
    assert torch.equal(actual.target_logits, expected.target_logits)
    assert (actual.target_logits[2:4] == 0.0).all()
    whole = expected.log_sums + 0.25
    got, want = actual.write_gradient(whole, factors), expected.write_gradient(whole, factors)
    assert got.data_ptr() == logits.data_ptr() and got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=2e-2 if dtype != torch.float32 else 1e-3, atol=1e-5)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("divisor", [None, 2.5])
@pytest.mark.parametrize("hyper", [AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1), AdamWHyper(0.1, 0.8, 0.999, 1e-2, 0.0)])
def test_several_updates_are_torchs(update: Callable[..., None], divisor: float | None, hyper: AdamWHyper) -> None:
    torch.manual_seed(0)
    master, exp_avg, exp_avg_sq, weights = torch.randn(200), torch.zeros(200), torch.zeros(200), torch.zeros(200)
    other = torch.nn.Parameter(master.clone())
    optimizer = torch.optim.AdamW(
        [other], hyper.lr, (hyper.beta1, hyper.beta2), hyper.eps, hyper.weight_decay, foreach=False
    )
    for number in range(1, 6):
        gradient = torch.randn(200)
        other.grad = gradient / (divisor or 1.0)
        optimizer.step()
        by = None if divisor is None else torch.tensor(divisor)
        update(master, exp_avg, exp_avg_sq, gradient, weights, hyper, number, by)
        torch.testing.assert_close(master, other.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(exp_avg_sq, optimizer.state[other]["exp_avg_sq"])
        assert torch.equal(weights, master)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("update", UPDATES)
def test_weights_are_the_rounded_masters(update: Callable[..., None], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    state, weights = [torch.randn(200), torch.zeros(200), torch.zeros(200)], torch.zeros(200, dtype=dtype)
    update(*state, torch.randn(200), weights, AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1), 1, None)
    assert torch.equal(weights, state[0].to(dtype))


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 10000])
def test_sum_of_squares_has_the_digits_of_fp64(length: int) -> None:
    x = torch.randn(length, generator=torch.Generator().manual_seed(0))
    actual = torch_optim_loss.sum_of_squares(x)
    assert actual.dtype == torch.float64 and actual.shape == ()
    torch.testing.assert_close(actual, reference.sum_of_squares(x), rtol=1e-6, atol=0.0)


def test_rows_are_added_in_fp64() -> None:
    """2^26 + 1 in fp32 is 2^26."""
    x = torch.zeros(4097)
    x[0], x[4096] = 2.0**13, 1.0
    assert float(torch_optim_loss.sum_of_squares(x)) == float(reference.sum_of_squares(x)) == 2.0**26 + 1.0


def test_scale_divides_in_place() -> None:
    x = torch.randn(100)
    expected = x / 3.0
    for scale_ in (reference.scale_, torch_optim_loss.scale_):
        scaled = x.clone()
        scale_(scaled, torch.tensor(3.0))
        assert torch.equal(scaled, expected)
