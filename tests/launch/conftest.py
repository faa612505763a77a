"""The tiny run and its undisturbed curve, once for all launchers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def _tiny_run() -> Any:
    """The module tiny_run.py beside this file; tests are no package."""
    spec = importlib.util.spec_from_file_location("megacode_tiny_run", Path(__file__).parent / "tiny_run.py")
    assert spec and spec.loader
    if spec.name not in sys.modules:
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


@pytest.fixture(scope="session")
def four_ranks() -> tuple[str, ...]:
    """The overrides of a layout of four ranks."""
    return _tiny_run().FOUR_RANKS


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A TinyRun in a folder of its own."""
    return _tiny_run().TinyRun.make(tmp_path_factory.mktemp("launch"))


@pytest.fixture(scope="session")
def undisturbed(tiny_run: Any, four_ranks: tuple[str, ...]) -> dict[int, float]:
    """The losses of the run on four ranks under torchrun, by step."""
    return tiny_run.run("torchrun.sh", "undisturbed", *four_ranks)
