"""Attention in blocks is attention: over several blocks, cut by windows, dropped, in every kind of heads and dtype."""

from __future__ import annotations

import pytest
import torch

from megacode.kernels import blocked_attention, reference
from megacode.kernels.counter_random import AttentionDropout

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "length", "heads", "kv_heads", "width", "window", "probability"),
    [
        (1, 257, 6, 1, 64, None, 0.0),
        (2, 130, 6, 2, 80, 3, 0.3),
        (1, 300, 4, 4, 16, 128, 0.0),
        (2, 300, 4, 2, 16, 129, 0.1),
        (1, 7, 4, 4, 16, None, 0.1),
        (1, 1, 2, 1, 8, 1, 0.0),
    ],
)
def test_forward_and_every_gradient_agree_with_the_definition(
    batch: int,
    length: int,
    heads: int,
    kv_heads: int,
    width: int,
    window: int | None,
    probability: float,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    wide = [torch.randn(batch, length, count, width, dtype=torch.float64) for count in (heads, kv_heads, kv_heads)]
    leaves = [tensor.to(dtype).requires_grad_() for tensor in wide]
    dropout = AttentionDropout(probability, 12345, 1, heads + 3) if probability else None
    grad = torch.randn(batch, length, heads, width, dtype=torch.float64).to(dtype)
    actual = blocked_attention.causal_attention(*leaves, dropout, window)
    expected = reference.causal_attention(*leaves, dropout, window)
    found = (actual, *torch.autograd.grad(actual, leaves, grad))
    right = (expected, *torch.autograd.grad(expected, leaves, grad))
    for one, other in zip(found, right, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        error = (one - other).abs().max() / other.abs().max().clamp(min=1e-9)
        assert error <= TOLERANCE[dtype]


def test_backward_keeps_nothing_but_query_key_and_value() -> None:
    """No tensor that grows with the square of the sequence is saved."""
    query, key = (torch.randn(1, 512, heads, 16, requires_grad=True) for heads in (4, 1))
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        blocked_attention.causal_attention(query, key, key, None)
    assert sum(tensor.numel() for tensor in saved) == query.numel() + 2 * key.numel()


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of key-value heads"):
        blocked_attention.causal_attention(
            torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4), None
        )
