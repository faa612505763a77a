"""Runs launchers on meta tensors and gives the tests what their kernels compile to, see `megacode.kernels.offline`.

TRITON_INTERPRET holds for a whole process: run this folder by itself. In a process that interprets, it is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
INTERPRETING = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETING:
    os.environ.pop("TRITON_INTERPRET", None)

from megacode.kernels.builds import Build, builds_of  # noqa: E402 (after the environment is settled)
from megacode.kernels.offline import compiling_for  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where the process cannot compile."""
    if INTERPRETING:
        reason = "this process interprets Triton kernels; run `pytest tests/kernels/compile` by itself"
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def compile_launches(request: pytest.FixtureRequest) -> Callable[[int, Callable[[], None]], dict[str, Build]]:
    """Return compile(capability, work): what every kernel that `work` launches compiles to, by kernel name."""

    def compile_for(capability: int, work: Callable[[], None]) -> dict[str, Build]:
        with compiling_for(capability) as launches:
            work()
        report = {build.name: build for build in builds_of(launches)}
        for build in report.values():
            request.node.user_properties.append((f"sm_{capability}", str(build)))  # for --junit-xml
        return report

    return compile_for
