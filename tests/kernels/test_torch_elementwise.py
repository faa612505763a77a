"""The torch versions of what stands around the matrix products agree with their definitions, and copy no gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from megacode.kernels import reference, torch_elementwise, torch_gelu
from megacode.kernels.counter_random import HiddenDropout, hidden_keep_mask, random_bits

DROPOUT = HiddenDropout(probability=0.25, seed=2**63 + 5, first_position=3, length=20)


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random tensors that want gradients."""
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def agree(actual: Callable[..., Tensor], expected: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Same outputs and same gradients."""
    one, other = actual(*inputs), expected(*inputs)
    grad = torch.randn_like(other)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.autograd.grad(one, inputs, grad), torch.autograd.grad(other, inputs, grad))


@pytest.mark.parametrize("dropout", [None, DROPOUT, HiddenDropout(0.0, 1, 3, 20)], ids=["plain", "dropout", "zero"])
def test_bias_dropout_residual_agrees_with_reference(dropout: HiddenDropout | None) -> None:
    agree(
        lambda *inputs: torch_elementwise.bias_dropout_residual(*inputs, dropout),
        lambda *inputs: reference.bias_dropout_residual(*inputs, dropout),
        leaves((2, 7, 6), (6,), (2, 7, 6)),
    )
    wide = leaves((2, 3, 4), (4,), (2, 3, 4), dtype=torch.float64)
    for function in (torch_elementwise.bias_dropout_residual, reference.bias_dropout_residual):
        assert torch.autograd.gradcheck(lambda *inputs, function=function: function(*inputs, dropout), wide)


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["plain", "dropout"])
def test_add_layer_norm_agrees_with_reference(dropout: HiddenDropout | None) -> None:
    inputs = leaves((2, 7, 6), (6,), (2, 7, 6), (6,), (6,))
    by = partial(torch_elementwise.add_layer_norm, layer_norm=reference.layer_norm)
    for function in (torch_elementwise.add_layer_norm, by):
        agree(
            lambda a, b, c, d, e, function=function: torch.stack(function(a, b, c, dropout, d, e, 1e-5)),
            lambda a, b, c, d, e: torch.stack(reference.add_layer_norm(a, b, c, dropout, d, e, 1e-5)),
            inputs,
        )


@pytest.mark.parametrize("is_lean", [False, True])
def test_bias_gelu_agrees_with_reference_and_with_itself(is_lean: bool) -> None:
    inputs = leaves((2, 5, 12), (12,))
    agree(lambda x, bias: torch_gelu.bias_gelu(x, bias, is_lean), reference.bias_gelu, inputs)
    with torch.no_grad():
        assert torch.equal(torch_gelu.bias_gelu_again(*inputs), torch_gelu.bias_gelu(*inputs, is_lean))
    wide = leaves((3, 4), (4,), dtype=torch.float64)
    for function in (lambda x, bias: torch_gelu.bias_gelu(x, bias, is_lean), reference.bias_gelu):
        assert torch.autograd.gradcheck(function, wide)


def test_reference_gelu_is_the_formula_written_out() -> None:
    for value in (-3.0, -0.5, 0.0, 1.25):
        u = value + 0.5
        expected = u / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        assert reference.bias_gelu(torch.tensor([value]), torch.tensor([0.5])).item() == pytest.approx(
            expected, abs=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_is_the_reference_bit_for_bit_and_leaves_its_input(dtype: torch.dtype) -> None:
    (x,) = leaves((2, 7, 3, 8), dtype=dtype)
    before = x.detach().clone()
    turned, expected = torch_elementwise.rotary(x, 1e4, 3), reference.rotary(x, 1e4, 3)
    assert torch.equal(turned, expected) and torch.equal(x, before)
    grad = torch.randn_like(turned)
    torch.testing.assert_close(torch.autograd.grad(turned, x, grad), torch.autograd.grad(expected, x, grad))


def test_reference_rotary_is_the_angle_written_out() -> None:
    x = torch.randn(1, 4, 2, 6)
    turned = reference.rotary(x, 50.0, 10)
    for position, head, i in [(0, 0, 0), (3, 1, 2), (2, 0, 1)]:
        angle = (10 + position) / 50.0 ** (2 * i / 6)
        first, second = x[0, position, head, i].item(), x[0, position, head, i + 3].item()
        actual = turned[0, position, head, [i, i + 3]].tolist()
        expected = [
            first * math.cos(angle) - second * math.sin(angle),
            second * math.cos(angle) + first * math.sin(angle),
        ]
        assert actual == pytest.approx(expected, abs=1e-5)


def test_without_dropout_the_gradient_passes_through_uncopied() -> None:
    branch, bias, residual = leaves((1, 3, 8), (8,), (1, 3, 8))
    grad = torch.randn(1, 3, 8)
    output = torch_elementwise.bias_dropout_residual(branch, bias, residual, None)
    gradients = torch.autograd.grad(output, (branch, residual), grad)
    assert [gradient.data_ptr() for gradient in gradients] == [grad.data_ptr()] * 2


def test_bias_gradients_add_up_in_fp32() -> None:
    # 4,096 ones: a sum kept in bf16 would stop at 256.
    branch, bias, residual = leaves((1, 4096, 2), (2,), (1, 4096, 2), dtype=torch.bfloat16)
    output = torch_elementwise.bias_dropout_residual(branch, bias, residual, None)
    (grad,) = torch.autograd.grad(output, bias, torch.ones_like(output))
    assert grad.tolist() == [4096.0, 4096.0] and grad.dtype == torch.bfloat16


def test_hidden_mask_is_that_of_logical_elements_whatever_part_is_held() -> None:
    whole = HiddenDropout(0.5, 77, 0, 12)
    keep = hidden_keep_mask(whole, 2, 12, 5, "cpu")
    bits = random_bits(77, torch.arange(24)[:, None], torch.arange(5)).view(2, 12, 5)  # the row is 12 batch + position
    assert torch.equal(keep, bits >= 2**31)
    parts = [hidden_keep_mask(HiddenDropout(0.5, 77, first, 12), 2, 4, 5, "cpu") for first in (0, 4, 8)]
    assert torch.equal(torch.cat(parts, dim=1), keep)
    assert 0.3 < keep.float().mean() < 0.7


def test_hidden_dropout_refuses_what_has_no_mask() -> None:
    for arguments, message in [
        ((1.0, 1, 0, 4), "probability"),
        ((0.1, -1, 0, 4), "seed"),
        ((0.1, 2**64, 0, 4), "seed"),
        ((0.1, 1, 4, 4), "first_position"),
    ]:
        with pytest.raises(ValueError, match=message):
            HiddenDropout(*arguments)
    with pytest.raises(ValueError, match="sequences of 4 tokens, but this rank holds positions 3 to 4"):
        hidden_keep_mask(HiddenDropout(0.1, 1, 3, 4), 1, 2, 8, "cpu")
