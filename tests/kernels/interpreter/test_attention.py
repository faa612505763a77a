"""Flash attention computes what `reference.causal_attention` defines, both ways, and writes every element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from megacode.kernels import flash_attention, flash_attention_choices, reference
from megacode.kernels.counter_random import AttentionDropout, fold_seed
from megacode.kernels.flash_attention_choices import Mode, Tile
from megacode.kernels.flash_attention_documents import DocumentBounds

TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
DROPOUT = AttentionDropout(probability=0.3, seed=fold_seed(7, 3, 1), first_head=2, num_heads=12)
Check = Callable[[str, Tensor, Tensor, float], None]
NAMES = ("output", "grad_query", "grad_key", "grad_value")
Shape = tuple[int, int, int, int, int]
KERNELS = ("attention_forward", "attention_query_grad", "attention_key_value_grad")


@dataclass(frozen=True)
class Always:
    """A chooser of one tile (query rows, key rows): large ones are cheap to interpret."""

    query: int
    key: int

    def choose(self, op: str, key: tuple[Any, ...], candidates: Sequence[Any], run: Callable[[Any], None]) -> Any:
        """Return the tile, whatever the candidates."""
        return Tile(self.query, self.key, 4, 1)


def documents_of(batch: int, length: int, kind: str | None) -> tuple[int, ...] | None:
    """Lengths that fill the rows: "ones", or "mixed": a row of one token and two more documents, then single ones."""
    if kind is None:
        return None
    if kind == "ones":
        return (1,) * batch * length
    middle = (length - 1) * 2 // 3
    first = tuple(part for part in (1, middle, length - 1 - middle) if part)
    return first + (length,) * (batch - 1)


def make_inputs(shape: Shape, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Return ([query, key, value], grad_output) for shape (b, s, n, k, d)."""
    batch, length, heads, kv_heads, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    query, key, value, grad = (
        torch.randn(batch, length, count, width, generator=generator).to(dtype)
        for count in (heads, kv_heads, kv_heads, heads)
    )
    return [query, key, value], grad


def run(
    attention: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, *options: Any, **more: Any
) -> list[Tensor]:
    """Return output, dQ, dK and dV of one implementation; `options` are dropout, window and documents."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attention(*leaves, *options, **more)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def compare(inputs: list[Tensor], grad: Tensor, check: Check, *options: Any, loosen: float = 1.0, **more: Any) -> None:
    """Hold the kernels against the reference, which computes from the same values in fp32."""
    dtype = grad.dtype
    actual = run(flash_attention.causal_attention, inputs, grad, *options, **more)
    expected = run(reference.causal_attention, [tensor.float() for tensor in inputs], grad.float(), *options)
    for name, got, want in zip(NAMES, actual, expected, strict=True):
        assert got.dtype == dtype, name
        check(name, got, want, TOLERANCE[dtype] * loosen)


# Pairwise over lengths, key-value heads, head widths, windows, documents, dropout, dtypes and tiles.
@pytest.mark.parametrize(
    ("shape", "dtype", "dropout", "window", "documents", "tile"),
    [
        ((2, 1, 6, 2, 64), torch.float32, None, None, None, (64, 128)),
        ((2, 1, 6, 1, 128), torch.bfloat16, DROPOUT, 1, "ones", (128, 64)),
        ((1, 1, 6, 6, 80), torch.float32, None, 3, "mixed", (32, 32)),
        ((2, 7, 6, 1, 80), torch.float32, DROPOUT, None, "mixed", (128, 128)),
        ((2, 7, 6, 6, 64), torch.bfloat16, None, 3, "ones", (32, 32)),
        ((1, 7, 6, 2, 128), torch.float32, None, 1, None, (64, 64)),
        ((1, 33, 2, 1, 8), torch.float32, None, 128, "mixed", (32, 64)),
        ((1, 128, 6, 6, 128), torch.float32, DROPOUT, 3, None, (128, 64)),
        ((2, 128, 6, 2, 80), torch.bfloat16, None, 128, "mixed", (128, 128)),
        ((1, 128, 2, 1, 64), torch.float32, None, 1, "ones", (64, 128)),
        ((1, 128, 6, 2, 128), torch.float16, None, None, None, (128, 32)),
        ((1, 257, 6, 1, 64), torch.float32, None, 128, None, (128, 64)),
        ((1, 257, 2, 2, 128), torch.bfloat16, DROPOUT, 128, "mixed", (64, 128)),
        ((1, 257, 2, 1, 80), torch.float32, DROPOUT, 3, "ones", (128, 128)),
        ((1, 257, 2, 1, 128), torch.float32, None, None, "mixed", (64, 128)),
        ((1, 257, 2, 2, 64), torch.float16, DROPOUT, 128, None, (128, 128)),
        ((1, 257, 2, 1, 80), torch.bfloat16, DROPOUT, None, None, (128, 64)),
    ],
)
def test_agrees_with_reference(
    shape: Shape,
    dtype: torch.dtype,
    dropout: AttentionDropout | None,
    window: int | None,
    documents: str | None,
    tile: tuple[int, int],
    assert_close: Check,
) -> None:
    inputs, grad = make_inputs(shape, dtype)
    lengths = documents_of(*shape[:2], documents)
    compare(inputs, grad, assert_close, dropout, window, lengths, chooser=Always(*tile))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unless_told_otherwise_it_runs_on_the_first_candidates(
    dtype: torch.dtype, assert_close: Check, launch_counter: Callable[[], int]
) -> None:
    inputs, grad = make_inputs((1, 128, 2, 1, 128), dtype)
    before = launch_counter()
    compare(inputs, grad, assert_close, DROPOUT, 50)
    assert launch_counter() - before == 4  # forward, dQ, dK and dV, the sum of their parts: all were interpreted


def test_chooses_among_the_candidates_of_the_problem() -> None:
    asked = []

    class Last:
        def choose(self, op, key, candidates, run):
            asked.append((op, key, candidates))
            return candidates[-1]

    inputs, grad = make_inputs((1, 7, 2, 1, 64), torch.bfloat16)
    run(flash_attention.causal_attention, inputs, grad, None, 3, chooser=Last())
    mode = Mode(80, 64, 2, dropout=False, bounded=True, ragged=True)
    tiles = (
        flash_attention_choices.forward_tiles(mode),
        flash_attention_choices.query_grad_tiles(mode),
        flash_attention_choices.key_value_grad_tiles(mode),
    )
    key = (1, 7, 2, 1, 64, 2, False, 3, False)
    assert asked == [(op, key, candidates) for op, candidates in zip(KERNELS, tiles, strict=True)]


@pytest.mark.parametrize("hidden_by", [{"window": 3}, {"documents": (100, 157)}], ids=["window", "documents"])
def test_blocks_that_nothing_sees_are_not_read(hidden_by: dict[str, Any]) -> None:
    """Queries from 128 on see no key before 100: whole blocks of 64 before that may hold anything, and the converse."""
    inputs, grad = make_inputs((1, 257, 2, 1, 64), torch.float32)
    options = {**hidden_by, "chooser": Always(64, 64)}
    whole = run(flash_attention.causal_attention, inputs, grad, None, **options)

    query, key, value = (tensor.clone() for tensor in inputs)
    key[:, :64] = value[:, :64] = float("nan")
    far_keys = run(flash_attention.causal_attention, [query, key, value], grad, None, **options)
    for name, got, want in zip(NAMES[:2], far_keys, whole, strict=False):
        assert torch.equal(got[:, 128:], want[:, 128:]), name
    assert far_keys[0][:, :64].isnan().all()  # the poison does poison what sees it

    query, late_grad = inputs[0].clone(), grad.clone()
    query[:, 192:] = late_grad[:, 192:] = float("nan")
    far_queries = run(flash_attention.causal_attention, [query, *inputs[1:]], late_grad, None, **options)
    for name, got, want in zip(NAMES[2:], far_queries[2:], whole[2:], strict=True):
        assert torch.equal(got[:, :64], want[:, :64]), name
        assert got[:, 192:].isnan().all(), name


def test_a_window_that_hides_nothing_and_one_document_change_nothing() -> None:
    inputs, grad = make_inputs((2, 40, 2, 1, 64), torch.float32)
    whole = run(flash_attention.causal_attention, inputs, grad, DROPOUT)
    for window, documents in [(40, None), (1000, None), (None, (40, 40)), (40, (40, 40))]:
        same = run(flash_attention.causal_attention, inputs, grad, DROPOUT, window, documents)
        for name, one, other in zip(NAMES, same, whole, strict=True):
            assert torch.equal(one, other), name


def test_bounds_of_documents_are_counted_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, grad = make_inputs((2, 5, 2, 1, 16), torch.float32)
    bounds = DocumentBounds.of((2, 3, 1, 4), 2, 5, torch.device("cpu"))
    assert bounds.starts.tolist() == [[0, 0, 2, 2, 2], [0, 1, 1, 1, 1]]
    assert bounds.ends.tolist() == [[2, 2, 5, 5, 5], [1, 5, 5, 5, 5]]
    assert bounds.starts.dtype == bounds.ends.dtype == torch.int32
    expected = run(flash_attention.causal_attention, inputs, grad, None, None, (2, 3, 1, 4))
    monkeypatch.setattr(DocumentBounds, "of", None)
    actual = run(flash_attention.causal_attention, inputs, grad, None, None, bounds)
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_two_shards_of_heads_drop_what_the_whole_drops(assert_close: Check) -> None:
    inputs, grad = make_inputs((2, 40, 6, 2, 64), torch.float32)
    whole = replace(DROPOUT, first_head=0, num_heads=6)
    output, grad_query, grad_key, grad_value = run(flash_attention.causal_attention, inputs, grad, whole)
    query, key, value = inputs
    for part in (0, 1):
        heads, kv_head = slice(3 * part, 3 * part + 3), slice(part, part + 1)
        sharded = [query[:, :, heads], key[:, :, kv_head], value[:, :, kv_head]]
        dropout = replace(whole, first_head=3 * part)
        results = run(flash_attention.causal_attention, sharded, grad[:, :, heads], dropout)
        wanted = (output[:, :, heads], grad_query[:, :, heads], grad_key[:, :, kv_head], grad_value[:, :, kv_head])
        for name, got, want in zip(NAMES, results, wanted, strict=True):
            assert_close(name, got, want, 1e-6)


def test_probability_zero_is_no_dropout() -> None:
    inputs, grad = make_inputs((1, 7, 6, 2, 64), torch.float32)
    without = run(flash_attention.causal_attention, inputs, grad, None)
    zero = run(flash_attention.causal_attention, inputs, grad, replace(DROPOUT, probability=0.0))
    assert all(torch.equal(one, other) for one, other in zip(without, zero, strict=True))


def test_takes_views_of_one_packed_projection_and_transposed_sequences(assert_close: Check) -> None:
    batch, length, heads, kv_heads, width = 2, 19, 6, 2, 64
    packed = torch.randn(length, batch, heads + 2 * kv_heads, width).transpose(0, 1)  # [b, s, ...] over [s, b, ...]
    inputs = list(packed.split([heads, kv_heads, kv_heads], dim=2))
    grad = torch.randn(batch, heads, length, width).transpose(1, 2)
    assert not any(tensor.is_contiguous() for tensor in (*inputs, grad))
    compare(inputs, grad, assert_close, None)


@pytest.mark.parametrize(("wanted", "parts"), [(1, 1), (2, 2), (512, 6)])
def test_group_is_summed_in_any_number_of_parts(
    wanted: int, parts: int, assert_close: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_attention, "_WANTED_PROGRAMS", wanted)
    assert flash_attention.group_parts(6, 1) == parts
    inputs, grad = make_inputs((1, 30, 6, 1, 64), torch.bfloat16)
    compare(inputs, grad, assert_close, DROPOUT)


def test_large_scores_do_not_overflow(assert_close: Check) -> None:
    inputs, grad = make_inputs((1, 40, 2, 1, 64), torch.float32)
    inputs[0] = inputs[0] * 100.0  # scores of several hundred: exp() without the running maximum is inf
    compare(inputs, grad, assert_close, None, loosen=10.0)  # an fp32 score of 500 is only known to 3e-5


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 5, 64), (1, 4, 2, 64)), "n % k == 0"),
        (((1, 4, 6, 256), (1, 4, 2, 256)), "d <= 128"),
        (((1, 4, 6, 64), (1, 5, 2, 64)), "agree in b, s and d"),
        (((1, (1 << 20) + 1, 1, 8), (1, (1 << 20) + 1, 1, 8)), "CUDA's grid"),
        (((4, 6, 64), (4, 2, 64)), r"takes query \[b, s, n, d\]"),
    ],
)
def test_refuses_shapes_by_rule(shapes: tuple[tuple[int, ...], tuple[int, ...]], message: str) -> None:
    query, key = (torch.zeros(()).expand(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        flash_attention.causal_attention(query, key, key, None)


def test_refuses_mixed_dtypes_and_foreign_heads() -> None:
    query = torch.zeros(1, 4, 6, 64)
    with pytest.raises(ValueError, match="share one of bf16"):
        flash_attention.causal_attention(query, query.half(), query.half(), None)
    with pytest.raises(ValueError, match="heads 8 to 13"):
        flash_attention.causal_attention(query, query, query, replace(DROPOUT, first_head=8))


def test_refuses_windows_and_documents_that_do_not_fit() -> None:
    query = torch.zeros(2, 4, 2, 16)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        flash_attention.causal_attention(query, query, query, None, 0)
    with pytest.raises(ValueError, match="fill 2 rows of 4 tokens"):
        flash_attention.causal_attention(query, query, query, None, None, (1, 3, 5))
    with pytest.raises(ValueError, match=r"rows \(1, 8\) do not fit"):
        bounds = DocumentBounds.of((8,), 1, 8, torch.device("cpu"))
        flash_attention.causal_attention(query, query, query, None, None, bounds)
