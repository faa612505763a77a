"""Runs the Triton kernels on CPU tensors in Triton's interpreter.

TRITON_INTERPRET is read when kernels are decorated, so it holds for a whole process: run this folder by itself. In a
process that has already imported Triton to compile, these tests are skipped and say so.

Three things make the interpreter a judge here: bf16 that rounds (`bf16_shim.py`), an error for each access outside
the tensors of the launch (`bounds.py`), and outputs filled with NaN before the kernels write them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
COMPILING = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"


def _load(name: str) -> ModuleType:
    """Import a helper beside this file; pytest's importlib mode has no sibling imports."""
    spec = importlib.util.spec_from_file_location(f"interpreter_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not COMPILING:
    os.environ["TRITON_INTERPRET"] = "1"
    _load("bf16_shim").install()
    BOUNDS = _load("bounds").install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where the process cannot interpret."""
    if COMPILING:
        reason = "this process compiles Triton kernels; run `pytest tests/kernels/interpreter` by itself"
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty and torch.empty_like return with NaN: an element that no kernel writes stays NaN.

    Integers are filled with -1: as the random key of a row it gives no mask that a test expects.
    """
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: poison(empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poison(empty_like(*args, **kwargs)))


@pytest.fixture
def assert_close() -> Callable[[str, Tensor, Tensor, float], None]:
    """Return a check that the largest error is at most `tolerance` of the largest expected element (or of 1)."""

    def check(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
        assert actual.shape == expected.shape, name
        assert torch.isfinite(actual).all(), f"{name} holds elements that were never written, or not finite"
        scale = max(float(expected.detach().abs().max()), 1.0)
        error = float((actual.detach().float() - expected.detach().float()).abs().max()) / scale
        assert error <= tolerance, f"{name}: error {error:.2e} above {tolerance:.0e}"

    return check


@pytest.fixture
def launch_counter() -> Callable[[], int]:
    """Return a function that says how many launches the bounds checker has watched so far."""
    return lambda: BOUNDS.launches
