"""Sums of squares have fp64's digits whatever the length, and repeat bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megacode.kernels import reference, squares

Check = Callable[[str, Tensor, Tensor, float], None]


@pytest.mark.parametrize("length", [1, 63, 4096, 4097, squares.RUN, squares.RUN + 1, 5 * squares.RUN - 100])
def test_agrees_with_the_sum_in_fp64(length: int, launch_counter: Callable[[], int]) -> None:
    x = torch.randn(length, generator=torch.Generator().manual_seed(length))
    before = launch_counter()
    actual = squares.sum_of_squares(x)
    assert launch_counter() - before == 2
    assert actual.dtype == torch.float64 and actual.shape == ()
    torch.testing.assert_close(actual, reference.sum_of_squares(x), rtol=2e-7, atol=0.0)
    assert torch.equal(actual, squares.sum_of_squares(x.clone()))


def test_sums_of_runs_are_added_in_fp64_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^25 + 1 in fp32 is 2^25: the one that stands in another run must not be lost."""
    monkeypatch.setattr(squares, "_PARTIALS", 2)
    x = torch.zeros(6 * squares.RUN + 5)
    x[0] = 2.0**13
    x[squares.RUN :: squares.RUN] = 1.0
    assert float(squares.sum_of_squares(x)) == 2.0**26 + 6.0


def test_no_elements_are_zero() -> None:
    assert float(squares.sum_of_squares(torch.zeros(0))) == 0.0


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_what_is_not_finite_shows(value: float) -> None:
    x = torch.zeros(5000)
    x[4500] = value
    assert not torch.isfinite(squares.sum_of_squares(x))


@pytest.mark.parametrize("length", [0, 1, 1500])
def test_scale_divides_in_place_and_nothing_else(length: int) -> None:
    whole = torch.randn(length + 128, generator=torch.Generator().manual_seed(0))
    expected = whole.clone()
    reference.scale_(expected[64 : 64 + length], torch.tensor(3.0))
    squares.scale_(whole[64 : 64 + length], torch.tensor(3.0))
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("x", [torch.zeros(2, 2), torch.zeros(4).double(), torch.zeros(4)[::2]])
def test_refuses_what_it_cannot_read(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be fp32 \[n\]"):
        squares.sum_of_squares(x)
    with pytest.raises(ValueError, match=r"must be fp32 \[n\]"):
        squares.scale_(x, torch.tensor(1.0))
