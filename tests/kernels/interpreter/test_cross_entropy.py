"""Cross entropy over parts of a vocabulary is torch's over the whole, and its gradient replaces the logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import cross_entropy, reference
from megacode.kernels.cross_entropy import vocab_cross_entropy

# Of the gradient, whose largest element is about 1: half a unit in the last place of bf16 and fp16.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}
Check = Callable[[str, Tensor, Tensor, float], None]


def make_inputs(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [rows, w], targets of which some are elsewhere, and factors."""
    generator = torch.Generator().manual_seed(rows + width)
    logits = (3.0 * torch.randn(rows, width, generator=generator)).to(dtype)
    targets = torch.randint(-width // 2, width + width // 2 + 2, (rows,), generator=generator)
    targets[0] = width - 1
    return logits, targets, torch.randn(rows, generator=generator)


def check_both(logits: Tensor, targets: Tensor, factors: Tensor, check: Check) -> None:
    """Hold the kernels against the reference, for a whole vocabulary whose other part has as large a sum again."""
    expected = reference.vocab_cross_entropy(logits.float().clone(), targets)
    whole = expected.log_sums + 0.7
    want = expected.write_gradient(whole, factors)
    actual = vocab_cross_entropy(logits, targets)
    check("log_sums", actual.log_sums, expected.log_sums, 2e-7)
    assert torch.equal(actual.target_logits, expected.target_logits)
    got = actual.write_gradient(whole, factors)
    assert got.data_ptr() == logits.data_ptr() and got.dtype == logits.dtype
    check("gradient", got, want, TOLERANCE[logits.dtype])


@pytest.mark.parametrize(
    ("rows", "width", "dtype"),
    [
        (1, 1, torch.float32),
        (7, 5, torch.float32),
        (128, 97, torch.float32),
        (7, 4097, torch.float32),
        (7, 1000, torch.float16),
        (1, 3000, torch.bfloat16),
        (128, 1000, torch.bfloat16),
        (3, 12288, torch.bfloat16),
    ],
)
def test_agrees_with_reference(
    rows: int, width: int, dtype: torch.dtype, assert_close: Check, launch_counter: Callable[[], int]
) -> None:
    before = launch_counter()
    check_both(*make_inputs(rows, width, dtype), assert_close)
    assert launch_counter() - before == 2


def test_many_blocks_of_a_row(assert_close: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rising, falling and equal logits: the running maximum changes in each block, in the first only, and never."""
    monkeypatch.setattr(cross_entropy, "BLOCK", 16)
    _, targets, factors = make_inputs(3, 150, torch.float32)
    rising = torch.arange(150.0)
    check_both(torch.stack([rising, -rising, torch.ones(150)]), targets, factors, assert_close)


@pytest.mark.parametrize("width", [97, 1000])
def test_two_parts_of_a_vocabulary_make_torchs_cross_entropy(width: int, assert_close: Check) -> None:
    logits = 4.0 * torch.randn(7, 2 * width, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, width - 1, width, 2 * width - 1, 3, width + 3, 50])
    factors = torch.linspace(-1.0, 2.0, 7)
    leaf = logits.clone().requires_grad_()
    losses = functional.cross_entropy(leaf, targets, reduction="none")
    (want,) = torch.autograd.grad(losses, leaf, factors)

    parts = [vocab_cross_entropy(logits[:, rank * width :][:, :width], targets - rank * width) for rank in (0, 1)]
    whole = torch.stack([part.log_sums for part in parts]).logsumexp(dim=0)
    assert_close("losses", whole - sum(part.target_logits for part in parts), losses, 1e-6)
    for part in parts:
        part.write_gradient(whole, factors)
    assert_close("gradient", logits, want, 1e-6)


def test_rows_with_a_gap_leave_the_gap_alone(assert_close: Check) -> None:
    memory = torch.randn(5, 130, generator=torch.Generator().manual_seed(0))
    before = memory.clone()
    check_both(memory[:, 11:108], torch.tensor([0, 96, -1, 97, 40]), torch.ones(5), assert_close)
    assert torch.equal(memory[:, :11], before[:, :11]) and torch.equal(memory[:, 108:], before[:, 108:])
    assert not torch.equal(memory[:, 11:108], before[:, 11:108])


def test_large_logits_do_not_overflow(assert_close: Check) -> None:
    """Logits of +-1e4, one far above all others, and columns that are ruled out by -inf, as padding may be."""
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    logits[0] += 1e4
    logits[1] -= 1e4
    logits[2, 130] = 1e4
    logits[3, 100:] = float("-inf")
    check_both(logits, torch.tensor([5, 6, 130, 7]), torch.ones(4), assert_close)


def test_what_is_not_a_number_shows() -> None:
    logits = torch.zeros(2, 300)
    logits[1, 200] = float("nan")
    assert vocab_cross_entropy(logits, torch.zeros(2, dtype=torch.int64)).log_sums.isnan().tolist() == [False, True]


def test_a_factor_of_zero_is_no_gradient() -> None:
    logits, targets, factors = make_inputs(7, 97, torch.bfloat16)
    factors[2::3] = 0.0
    own = vocab_cross_entropy(logits, targets)
    gradient = own.write_gradient(own.log_sums, factors)
    assert (gradient == 0.0).all(dim=1).tolist() == (factors == 0.0).tolist()


def test_refuses_what_it_cannot_read() -> None:
    targets = torch.zeros(3, dtype=torch.int64)
    for logits in (torch.zeros(3), torch.zeros(0, 4), torch.zeros(4, 3).mT):
        with pytest.raises(ValueError, match="each row's elements side by side"):
            vocab_cross_entropy(logits, targets)
    for wrong in (targets[:2], targets.int()):
        with pytest.raises(ValueError, match=r"must be int64 \[3\]"):
            vocab_cross_entropy(torch.zeros(3, 4), wrong)
