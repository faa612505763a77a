"""The torch implementations and the definitions agree, and the definitions agree with a count by hand."""

from __future__ import annotations

import math

import pytest
import torch

from megacode.kernels import reference, torch_ops
from megacode.kernels.counter_random import AttentionDropout, attention_keep_mask


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("length", [1, 7, 33])
def test_attention_agrees_with_reference(kv_heads: int, length: int) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, length, heads, 16, requires_grad=True) for heads in (6, kv_heads, kv_heads)]
    grad = torch.randn(2, length, 6, 16)
    actual, expected = torch_ops.causal_attention(*leaves, None), reference.causal_attention(*leaves, None)
    assert actual.shape == (2, length, 6, 16)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad))


def test_reference_attention_is_the_sum_written_out() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 5, 4, 3), torch.randn(2, 5, 2, 3), torch.randn(2, 5, 2, 3)
    dropout = AttentionDropout(0.5, 11, 1, 8)
    keep = attention_keep_mask(dropout, 2, 4, 5, "cpu")
    actual = reference.causal_attention(query, key, value, dropout)
    for batch, row, head in [(0, 0, 0), (1, 4, 1), (0, 3, 2), (1, 2, 3)]:
        kv_head = head // 2
        scores = [math.exp(float(query[batch, row, head] @ key[batch, k, kv_head]) / 3**0.5) for k in range(row + 1)]
        expected = sum(
            score / sum(scores) * float(keep[batch, head, row, k]) / 0.5 * value[batch, k, kv_head]
            for k, score in enumerate(scores)
        )
        torch.testing.assert_close(actual[batch, row, head], expected)


@pytest.mark.parametrize("window", [1, 2, 5, 32, 33, 100])
def test_window_agrees_with_reference(window: int) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 33, heads, 16, requires_grad=True) for heads in (6, 2, 2)]
    grad = torch.randn(2, 33, 6, 16)
    actual = torch_ops.causal_attention(*leaves, None, window)
    expected = reference.causal_attention(*leaves, None, window)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad))
    whole = reference.causal_attention(*leaves, None)
    assert torch.equal(expected, whole) == (window >= 33)


def test_a_window_counts_the_token_itself() -> None:
    """Keys q - window < k <= q, by hand; with dropout too, whose mask stays that of the whole matrix."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 6, 2, 3), torch.randn(1, 6, 1, 3), torch.randn(1, 6, 1, 3)
    dropout = AttentionDropout(0.5, 11, 0, 2)
    keep = attention_keep_mask(dropout, 1, 2, 6, "cpu")
    without, dropped = (torch_ops.causal_attention(query, key, value, draw, 3) for draw in (None, dropout))
    for row, head in [(0, 0), (1, 1), (2, 0), (3, 1), (5, 0)]:
        keys = range(max(0, row - 2), row + 1)
        scores = {k: math.exp(float(query[0, row, head] @ key[0, k, 0]) / 3**0.5) for k in keys}
        chances = {k: score / sum(scores.values()) for k, score in scores.items()}
        torch.testing.assert_close(without[0, row, head], sum(chances[k] * value[0, k, 0] for k in keys))
        expected = sum(chances[k] * float(keep[0, head, row, k]) / 0.5 * value[0, k, 0] for k in keys)
        torch.testing.assert_close(dropped[0, row, head], expected + torch.zeros(3))
    torch.testing.assert_close(torch_ops.causal_attention(query, key, value, None, 1), value.expand(1, 6, 2, 3))


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_documents_are_attended_as_if_each_were_alone(kv_heads: int, window: int | None) -> None:
    """Two rows of several documents, of one token too; forward and backward, of the definition and of the fast path."""
    torch.manual_seed(0)
    documents = (1, 9, 7, 16, 1)
    leaves = [torch.randn(2, 17, heads, 16, requires_grad=True) for heads in (6, kv_heads, kv_heads)]
    grad = torch.randn(2, 17, 6, 16)
    parts = zip(*(leaf.flatten(0, 1).unsqueeze(0).split(documents, dim=1) for leaf in leaves), strict=True)
    alone = torch.cat([reference.causal_attention(*part, None, window) for part in parts], dim=1).view(grad.shape)
    expected = torch.autograd.grad(alone, leaves, grad)
    for attend in (reference.causal_attention, torch_ops.causal_attention):
        actual = attend(*leaves, None, window, documents)
        torch.testing.assert_close(actual, alone)
        torch.testing.assert_close(torch.autograd.grad(actual, leaves, grad), expected)
    for rows in ((17, 17), (17,) * 2):
        torch.testing.assert_close(
            torch_ops.causal_attention(*leaves, None, window, rows), torch_ops.causal_attention(*leaves, None, window)
        )


def test_dropout_inside_documents_drops_what_it_drops_without_them() -> None:
    """By hand: the mask is that of the whole matrix, so that kernels can draw it without knowing the documents."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 6, 2, 3), torch.randn(1, 6, 1, 3), torch.randn(1, 6, 1, 3)
    dropout = AttentionDropout(0.5, 11, 0, 2)
    keep = attention_keep_mask(dropout, 1, 2, 6, "cpu")
    dropped = torch_ops.causal_attention(query, key, value, dropout, 3, (2, 4))
    for row, head, keys in [(0, 0, [0]), (1, 1, [0, 1]), (2, 0, [2]), (3, 1, [2, 3]), (5, 0, [3, 4, 5])]:
        scores = {k: math.exp(float(query[0, row, head] @ key[0, k, 0]) / 3**0.5) for k in keys}
        chances = {k: score / sum(scores.values()) for k, score in scores.items()}
        expected = sum(chances[k] * float(keep[0, head, row, k]) / 0.5 * value[0, k, 0] for k in keys)
        torch.testing.assert_close(dropped[0, row, head], expected + torch.zeros(3))


@pytest.mark.parametrize("documents", [(5, 5), (4, 5, 1), (8,), (4, 3), (4, 0, 4), (4, -1, 5)])
def test_documents_that_do_not_fill_the_rows_are_refused(documents: tuple[int, ...]) -> None:
    heads = torch.zeros(2, 4, 1, 2)
    for attend in (reference.causal_attention, torch_ops.causal_attention):
        with pytest.raises(ValueError, match="fill 2 rows of 4 tokens"):
            attend(heads, heads, heads, None, None, documents)


def test_dropout_is_the_reference() -> None:
    query = torch.randn(1, 9, 4, 8)
    dropout = AttentionDropout(0.5, 11, 0, 4)
    expected = reference.causal_attention(query, query, query, dropout)
    torch.testing.assert_close(torch_ops.causal_attention(query, query, query, dropout), expected)
    assert not torch.allclose(expected, reference.causal_attention(query, query, query, None))
    none = AttentionDropout(0.0, 11, 0, 4)
    torch.testing.assert_close(
        torch_ops.causal_attention(query, query, query, none), reference.causal_attention(query, query, query, None)
    )


def test_layer_norm_agrees_with_reference_and_its_gradient_with_differences() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 12), torch.randn(12), torch.randn(12)
    torch.testing.assert_close(torch_ops.layer_norm(x, weight, bias, 1e-5), reference.layer_norm(x, weight, bias, 1e-5))
    wide = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *leaves: reference.layer_norm(*leaves, 1e-5), wide)


def test_reference_keeps_the_dtype_and_its_attention_gradient_passes_differences() -> None:
    query = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, 4, 1, 3, dtype=torch.float64, requires_grad=True)
    dropout = AttentionDropout(0.25, 3, 0, 2)
    assert torch.autograd.gradcheck(lambda q, k: reference.causal_attention(q, k, k, dropout), (query, key))
    half = query.detach().bfloat16()
    assert reference.causal_attention(half, half, half, None).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="multiple of key-value heads"):
        reference.causal_attention(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4), None)
