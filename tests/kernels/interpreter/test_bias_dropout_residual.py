"""Triton's bias, dropout and residual add computes what its reference defines, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import bias_dropout_residual, reference
from megacode.kernels.counter_random import HiddenDropout, hidden_keep_mask

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DROPOUT = HiddenDropout(probability=0.3, seed=2**63 + 5, first_position=100, length=400)
Check = Callable[[str, Tensor, Tensor, float], None]


def run(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, dropout: HiddenDropout | None) -> list:
    """The output and the three gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves, dropout)
    return [output, *torch.autograd.grad(output, leaves, grad)]


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["plain", "dropout"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 1), torch.float32),
        ((1, 7, 769), torch.float32),
        ((2, 64, 24), torch.float32),
        ((1, 257, 40), torch.float32),
        ((2, 5, 257), torch.bfloat16),
        ((1, 4, 130), torch.float16),
    ],
)
def test_agrees_with_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, dropout: HiddenDropout | None, assert_close: Check
) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(one, generator=generator).to(dtype) for one in (shape, shape[-1:], shape, shape)]
    actual = run(bias_dropout_residual.bias_dropout_residual, wide[:3], wide[3], dropout)
    wide = [tensor.float() for tensor in wide]
    expected = run(reference.bias_dropout_residual, wide[:3], wide[3], dropout)
    assert all(tensor.dtype == dtype for tensor in actual)
    for name, got, want in zip(("output", "branch", "bias", "residual"), actual, expected, strict=True):
        assert_close(name, got, want, TOLERANCE[dtype])


def test_drops_the_elements_that_the_layout_independent_mask_names() -> None:
    ones, zeros = torch.ones(2, 9, 700), torch.zeros(700)
    keep = hidden_keep_mask(DROPOUT, 2, 9, 700, "cpu")
    branch = ones.clone().requires_grad_()
    output = bias_dropout_residual.bias_dropout_residual(branch, zeros, ones * 0, DROPOUT)
    assert torch.equal(output != 0, keep)
    (grad,) = torch.autograd.grad(output, branch, ones)
    torch.testing.assert_close(grad, keep / 0.7)


def test_ranks_that_share_a_sequence_draw_the_mask_of_the_whole() -> None:
    branch, zeros = torch.ones(2, 12, 30), torch.zeros(30)
    whole = HiddenDropout(0.5, 77, 0, 12)
    parts = [HiddenDropout(0.5, 77, first, 12) for first in (0, 6)]
    expected = bias_dropout_residual.bias_dropout_residual(branch, zeros, branch, whole)
    halves = [
        bias_dropout_residual.bias_dropout_residual(half, zeros, half, dropout)
        for half, dropout in zip(branch.chunk(2, dim=1), parts, strict=True)
    ]
    assert torch.equal(torch.cat(halves, dim=1), expected)


def test_without_dropout_the_gradient_passes_through_untouched() -> None:
    leaves = [torch.randn(1, 3, 16, requires_grad=True), torch.zeros(16), torch.randn(1, 3, 16, requires_grad=True)]
    grad = torch.randn(1, 3, 16)
    output = bias_dropout_residual.bias_dropout_residual(*leaves, None)
    gradients = torch.autograd.grad(output, (leaves[0], leaves[2]), grad)
    assert [gradient.data_ptr() for gradient in gradients] == [grad.data_ptr()] * 2


def test_refuses_shapes_and_positions_by_rule() -> None:
    x, h = torch.zeros(1, 2, 8), torch.zeros(8)
    for inputs in ((x, torch.zeros(7), x), (x, h, torch.zeros(2, 8)), (x[:, :0], h, x[:, :0])):
        with pytest.raises(ValueError, match=r"must be \[b, s, h\]"):
            bias_dropout_residual.bias_dropout_residual(*inputs, None)
    with pytest.raises(ValueError, match="positions 3 to 4"):
        bias_dropout_residual.bias_dropout_residual(x, h, x, HiddenDropout(0.1, 1, 3, 4))
