"""Triton's residual add with LayerNorm computes what `reference.add_layer_norm` defines, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import add_layer_norm, reference
from megacode.kernels.counter_random import HiddenDropout, hidden_keep_mask

TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}
NAMES = ("total", "normalized", "grad_branch", "grad_branch_bias", "grad_residual", "grad_weight", "grad_bias")
DROPOUT = HiddenDropout(probability=0.3, seed=2**63 + 5, first_position=100, length=400)
Check = Callable[[str, Tensor, Tensor, float], None]


def inputs_of(shape: tuple[int, int, int], dtype: torch.dtype, parameter_dtype: torch.dtype) -> list[Tensor]:
    """branch, its bias, residual, weight, bias, and a gradient for each output."""
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, shape[-1:], shape, shape[-1:], shape[-1:], shape, shape)
    dtypes = (dtype, parameter_dtype, dtype, parameter_dtype, parameter_dtype, dtype, dtype)
    return [torch.randn(one, generator=generator).to(kind) for one, kind in zip(shapes, dtypes, strict=True)]


def run(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor], dropout: HiddenDropout | None) -> list:
    """Both outputs and the five gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:5]]
    outputs = function(*leaves[:3], dropout, *leaves[3:], 1e-5)
    return [*outputs, *torch.autograd.grad(outputs, leaves, inputs[5:])]


def compare(
    shape: tuple[int, int, int], dtype: torch.dtype, parameter_dtype: torch.dtype, dropout: HiddenDropout | None,
    check: Check,
) -> None:  # fmt: skip
    """Hold the kernels against the reference, which computes from the same values in fp32."""
    inputs = inputs_of(shape, dtype, parameter_dtype)
    actual = run(add_layer_norm.add_layer_norm, inputs, dropout)
    expected = run(reference.add_layer_norm, [tensor.float() for tensor in inputs], dropout)
    assert [tensor.dtype for tensor in actual] == [dtype] * 3 + [parameter_dtype, dtype] + [parameter_dtype] * 2
    for name, got, want in zip(NAMES, actual, expected, strict=True):
        check(name, got, want, TOLERANCE[dtype])


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["plain", "dropout"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 5), torch.float32),
        ((1, 7, 769), torch.float32),
        ((2, 64, 24), torch.float32),  # rows of two sequences, several rows a program
        ((1, 257, 40), torch.float32),
        ((2, 3, 1100), torch.bfloat16),
        ((1, 4, 130), torch.float16),
    ],
)
def test_agrees_with_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, dropout: HiddenDropout | None, assert_close: Check
) -> None:
    compare(shape, dtype, dtype, dropout, assert_close)


def test_fp32_parameters_over_bf16_rows(assert_close: Check) -> None:
    compare((1, 5, 96), torch.bfloat16, torch.float32, DROPOUT, assert_close)


def test_drops_the_elements_that_the_layout_independent_mask_names() -> None:
    ones, zeros = torch.ones(2, 9, 700), torch.zeros(700)
    keep = hidden_keep_mask(DROPOUT, 2, 9, 700, "cpu")
    branch = ones.clone().requires_grad_()
    total, normalized = add_layer_norm.add_layer_norm(branch, zeros, ones * 0, DROPOUT, zeros + 1, zeros, 1e-5)
    assert torch.equal(total != 0, keep)
    (grad,) = torch.autograd.grad((total, normalized), branch, (ones, ones * 0))
    assert torch.equal(grad != 0, keep)
    torch.testing.assert_close(grad, keep / 0.7)


def test_backward_where_one_output_is_not_used(assert_close: Check) -> None:
    inputs = inputs_of((1, 6, 50), torch.float32, torch.float32)
    for used in (0, 1):
        gradients = []
        for function in (add_layer_norm.add_layer_norm, reference.add_layer_norm):
            leaves = [tensor.detach().requires_grad_() for tensor in inputs[:5]]
            output = function(*leaves[:3], DROPOUT, *leaves[3:], 1e-5)[used]
            gradients.append(torch.autograd.grad(output, leaves[:3], inputs[5]))
        for name, got, want in zip(NAMES[2:], *gradients, strict=False):
            assert_close(name, got, want, 1e-5)


def test_without_dropout_branch_and_residual_share_one_gradient() -> None:
    inputs = inputs_of((1, 3, 16), torch.float32, torch.float32)
    gradients = run(add_layer_norm.add_layer_norm, inputs, None)[2:]
    assert gradients[0].data_ptr() == gradients[2].data_ptr()


def test_normalizes_the_sum_as_it_is_rounded(assert_close: Check) -> None:
    # Sums of 256 and small values: bf16 keeps multiples of 2 there, and LayerNorm blows what is left up.
    generator = torch.Generator().manual_seed(0)
    branch = torch.randn(1, 4, 256, generator=generator).mul(2).bfloat16()
    residual, zeros = torch.full((1, 4, 256), 256.0, dtype=torch.bfloat16), torch.zeros(256)
    total, normalized = add_layer_norm.add_layer_norm(branch, zeros, residual, None, zeros + 1, zeros, 1e-5)
    assert_close("normalized", normalized, reference.layer_norm(total.float(), zeros + 1, zeros, 1e-5), 1e-2)


def test_refuses_shapes_and_positions_by_rule() -> None:
    x, h = torch.zeros(1, 2, 8), torch.zeros(8)
    with pytest.raises(ValueError, match=r"must be \[b, s, h\]"):
        add_layer_norm.add_layer_norm(x, h, torch.zeros(1, 3, 8), None, h, h, 1e-5)
    with pytest.raises(ValueError, match=r"must be \[h\] for branch"):
        add_layer_norm.add_layer_norm(x, h, x, None, torch.zeros(7), h, 1e-5)
    with pytest.raises(ValueError, match="positions 3 to 4"):
        add_layer_norm.add_layer_norm(x, h, x, HiddenDropout(0.1, 1, 3, 4), h, h, 1e-5)
