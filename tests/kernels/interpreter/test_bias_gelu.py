"""Triton's bias and GELU computes what `reference.bias_gelu` defines, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import bias_gelu, reference

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
Check = Callable[[str, Tensor, Tensor, float], None]


def run(function: Callable[..., Tensor], x: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, dx and dbias."""
    leaves = [x.detach().requires_grad_(), bias.detach().requires_grad_()]
    output = function(*leaves)
    return [output, *torch.autograd.grad(output, leaves, grad)]


def compare(x: Tensor, bias_dtype: torch.dtype, check: Check) -> None:
    """Hold the kernels against the reference, which computes from the same values in fp32; x stays as it is."""
    generator = torch.Generator().manual_seed(1)
    bias, grad = torch.randn(x.shape[-1], generator=generator).to(bias_dtype), torch.randn(x.shape, generator=generator)
    before = x.clone()
    actual = run(bias_gelu.bias_gelu, x, bias, grad.to(x.dtype))
    assert torch.equal(x, before)
    expected = run(reference.bias_gelu, x.float(), bias.float(), grad.to(x.dtype).float())
    assert [tensor.dtype for tensor in actual] == [x.dtype, x.dtype, bias_dtype]
    for name, got, want in zip(("output", "grad_x", "grad_bias"), actual, expected, strict=True):
        check(name, got, want, TOLERANCE[x.dtype])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1), torch.float32),
        ((7, 769), torch.float32),
        ((2, 64, 24), torch.float32),
        ((257, 40), torch.float32),
        ((2, 5, 257), torch.bfloat16),
        ((4, 130), torch.float16),
    ],
)
def test_agrees_with_reference(shape: tuple[int, ...], dtype: torch.dtype, assert_close: Check) -> None:
    compare(torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(2).to(dtype), dtype, assert_close)


def test_fp32_bias_over_bf16_rows_and_strided_rows(assert_close: Check) -> None:
    x = torch.randn(9, 3, 50, generator=torch.Generator().manual_seed(0)).bfloat16().transpose(0, 1)
    compare(x, torch.float32, assert_close)


def test_large_values_neither_overflow_nor_lose_their_slope() -> None:
    x = torch.tensor([[-1e4, -300.0, -12.0, 0.0, 12.0, 300.0, 1e4]])
    output, grad, _ = run(bias_gelu.bias_gelu, x, torch.zeros(7), torch.ones(1, 7))
    torch.testing.assert_close(output, x.clamp(min=0.0))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]]))


def test_refuses_shapes_by_rule() -> None:
    for x, bias in ((torch.zeros(2, 8), torch.zeros(7)), (torch.zeros(0, 8), torch.zeros(8))):
        with pytest.raises(ValueError, match=r"must be \[f\]"):
            bias_gelu.bias_gelu(x, bias)
