"""The launched run and its undisturbed curve, once for all launchers."""

from __future__ import annotations

import pytest
from launched_run import FOUR_RANKS, LaunchedRun


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> LaunchedRun:
    """A run in a folder of its own."""
    return LaunchedRun.make(tmp_path_factory.mktemp("launch"))


@pytest.fixture(scope="session")
def undisturbed(tiny_run: LaunchedRun) -> dict[int, float]:
    """The losses of the run on four ranks under torchrun, by step."""
    return tiny_run.run("torchrun.sh", "undisturbed", *FOUR_RANKS)
