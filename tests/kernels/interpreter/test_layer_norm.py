"""Triton's LayerNorm computes what `reference.layer_norm` defines, forward and backward, and writes every element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import layer_norm, reference

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
Check = Callable[[str, Tensor, Tensor, float], None]


def run(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Return output, dx, dweight and dbias of one implementation."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves, 1e-5)
    return [output, *torch.autograd.grad(output, leaves, grad)]


def compare(x: Tensor, parameter_dtype: torch.dtype, check: Check) -> None:
    """Hold the kernels against the reference, which computes from the same values in fp32."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = (torch.randn(x.shape[-1], generator=generator).to(parameter_dtype) for _ in range(2))
    grad = torch.randn(x.shape, generator=generator).to(x.dtype)
    actual = run(layer_norm.layer_norm, [x, weight, bias], grad)
    expected = run(reference.layer_norm, [tensor.float() for tensor in (x, weight, bias)], grad.float())
    assert [tensor.dtype for tensor in actual] == [x.dtype, x.dtype, parameter_dtype, parameter_dtype]
    for name, got, want in zip(("output", "grad_x", "grad_weight", "grad_bias"), actual, expected, strict=True):
        check(name, got, want, TOLERANCE[got.dtype if name != "grad_x" else x.dtype])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 1), torch.float32),
        ((3, 7), torch.float32),
        ((2, 3, 96), torch.float32),
        ((5, 769), torch.float32),
        ((2, 16384), torch.float32),
        ((3, 5, 257), torch.bfloat16),
        ((2, 6144), torch.bfloat16),
        ((1, 7, 128), torch.float16),
        ((128, 24), torch.float32),
    ],
)
def test_agrees_with_reference(shape: tuple[int, ...], dtype: torch.dtype, assert_close: Check) -> None:
    compare(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype), dtype, assert_close)


def test_sums_more_rows_than_programs(assert_close: Check) -> None:
    compare(torch.randn(257, 24, generator=torch.Generator().manual_seed(0)), torch.float32, assert_close)


def test_fp32_parameters_over_bf16_rows(assert_close: Check) -> None:
    x = torch.randn(6, 130, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight, bias = torch.randn(130), torch.randn(130)
    grad = torch.randn(6, 130).bfloat16()
    actual = run(layer_norm.layer_norm, [x, weight, bias], grad)
    expected = run(reference.layer_norm, [x.float(), weight, bias], grad.float())
    for name, got, want, tolerance in zip("ygwb", actual, expected, (1e-2, 1e-2, 1e-5, 1e-5), strict=True):
        assert_close(name, got, want, tolerance)
    assert actual[2].dtype == torch.float32


def test_large_mean_keeps_the_variance(assert_close: Check) -> None:
    # E[x^2] - E[x]^2 would lose all digits of a variance of 1 beside a mean of 4096 in fp32.
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0)).mul(256).round().div(256) + 4096.0
    ones, zeros = torch.ones(512), torch.zeros(512)
    expected = reference.layer_norm(x.double(), ones.double(), zeros.double(), 1e-5)
    assert_close("output", layer_norm.layer_norm(x, ones, zeros, 1e-5), expected, 1e-4)


def test_takes_strided_rows(assert_close: Check) -> None:
    compare(torch.randn(7, 2, 40).transpose(0, 1), torch.float32, assert_close)


def test_refuses_shapes_by_rule() -> None:
    with pytest.raises(ValueError, match=r"must be \[h\] for x \[..., 8\]"):
        layer_norm.layer_norm(torch.zeros(2, 8), torch.zeros(7), torch.zeros(8), 1e-5)
    with pytest.raises(ValueError, match="must have rows"):
        layer_norm.layer_norm(torch.zeros(0, 8), torch.zeros(8), torch.zeros(8), 1e-5)
