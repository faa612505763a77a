"""Triton's rotary embedding computes what `reference.rotary` defines, in place and through views."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import reference, rotary

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
Check = Callable[[str, Tensor, Tensor, float], None]


def heads(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype", "first"),
    [
        ((1, 1, 1, 2), torch.float32, 0),
        ((2, 7, 3, 6), torch.float32, 5),
        ((1, 128, 9, 80), torch.float32, 0),  # more heads than a program turns at once
        ((1, 257, 2, 24), torch.float32, 1000),
        ((2, 33, 3, 64), torch.bfloat16, 0),
        ((1, 9, 5, 20), torch.float16, 0),
    ],
)
def test_agrees_with_reference(shape: tuple[int, ...], dtype: torch.dtype, first: int, assert_close: Check) -> None:
    x, grad = heads(shape, dtype), heads(shape, dtype, seed=1)
    actual, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    turned, expected = rotary.rotary(actual, 999_999.0, first), reference.rotary(wide, 999_999.0, first)
    assert turned.dtype == dtype and turned.data_ptr() == actual.data_ptr()
    assert_close("turned", turned, expected, TOLERANCE[dtype])
    before = grad.clone()
    (grad_x,) = torch.autograd.grad(turned, actual, grad)
    assert torch.equal(grad, before), "a gradient may belong to others too"
    assert_close("grad", grad_x, torch.autograd.grad(expected, wide, grad.float())[0], TOLERANCE[dtype])


def test_turns_a_chunk_of_a_tensor_under_autograd_and_leaves_the_rest(assert_close: Check) -> None:
    source, weight, grad = heads((2, 5, 4)), heads((4, 48), seed=1).requires_grad_(), heads((2, 5, 3, 8), seed=2)
    gradients = []
    for function in (rotary.rotary, reference.rotary):
        key_value = source @ weight
        key, value = (part.unflatten(-1, (3, 8)) for part in key_value.chunk(2, dim=-1))
        before = value.detach().clone()
        turned = function(key, 10_000.0, 3)
        assert torch.equal(value, before)
        gradients.append(torch.autograd.grad((turned * grad).sum() + value.square().sum(), weight)[0])
    assert_close("grad_weight", *gradients, 1e-5)


def test_takes_any_strides_of_x_and_of_the_gradient(assert_close: Check) -> None:
    x = heads((3, 2, 7, 10)).permute(2, 0, 1, 3)  # [b 7, s 3, n 2, d 10]
    assert_close(
        "x", rotary.rotary(x.clone(memory_format=torch.preserve_format), 100.0), reference.rotary(x, 100.0), 1e-5
    )
    leaf = heads((1, 4, 2, 6)).requires_grad_()
    (grad,) = torch.autograd.grad(rotary.rotary(leaf, 100.0).sum(), leaf)  # a gradient whose strides are all 0
    wide = heads((1, 4, 2, 6)).requires_grad_()
    assert_close("grad", grad, torch.autograd.grad(reference.rotary(wide, 100.0).sum(), wide)[0], 1e-5)


def test_angles_stay_exact_at_the_last_positions_of_long_sequences() -> None:
    first, width, theta = 65_000, 128, 999_999.0
    x = torch.zeros(1, 64, 1, width)
    x[..., : width // 2] = 1.0
    turned = rotary.rotary(x, theta, first)
    positions = torch.arange(first, first + 64, dtype=torch.float32).unsqueeze(-1)
    angles = (positions * reference.rotary_frequencies(width, theta, x.device)).double()  # rounded as the definition's
    torch.testing.assert_close(turned[0, :, 0].double(), torch.cat([angles.cos(), angles.sin()], -1), atol=2e-7, rtol=0)


def test_who_saved_x_for_backward_is_told() -> None:
    x = heads((1, 2, 1, 4)).requires_grad_() * 1.0
    loss = x.square().sum()
    rotary.rotary(x, 100.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_refuses_shapes_and_strides_by_rule() -> None:
    for shape in ((2, 3, 4), (1, 2, 3, 5), (1, 0, 3, 4)):
        with pytest.raises(ValueError, match="with d even"):
            rotary.rotary(torch.zeros(shape), 100.0)
    for x in (torch.zeros(1, 2, 1, 4).expand(1, 2, 3, 4), torch.zeros(1, 2, 4, 3).transpose(2, 3)[..., :4]):
        with pytest.raises(ValueError, match="turned in place"):
            rotary.rotary(x, 100.0)
