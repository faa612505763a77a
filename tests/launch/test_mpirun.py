"""launch/mpirun.sh: the losses of torchrun, one failing rank ends all, and a missing MPI is one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched_run import FOUR_RANKS, LaunchedRun

LAUNCH = Path(__file__).parents[2] / "launch"
needs_mpi = pytest.mark.skipif(
    not shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"), reason="no mpiexec"
)

# A `megacode` whose rank 1 fails while the others would go on for a minute.
FAILING = """
import json, os, sys, time
def main(argv):
    if os.environ["RANK"] == "1":
        raise ValueError("rank 1 has had enough")
    time.sleep(60)
if __name__ == "__main__":
    print(json.dumps({"world_size": 3, "folder": "nowhere"}))
"""


def mpi_rank(stub: Path) -> subprocess.CompletedProcess[str]:
    """Run launch/mpi_rank.py alone with `stub` ahead of the installed packages."""
    command = [sys.executable, str(LAUNCH / "mpi_rank.py"), "train", "run.toml"]
    environment = {**os.environ, "PYTHONPATH": str(stub)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("package", "module", "told"),
    [
        ("raise ImportError('No module named mpi4py')", "", "mpi_rank: mpi4py is missing"),
        ("", "raise RuntimeError('cannot load MPI library\\nlibmpi.so: no such file')", "finds no MPI library"),
    ],
)
def test_a_missing_mpi_is_one_line(tmp_path: Path, package: str, module: str, told: str) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(package)
    (tmp_path / "mpi4py" / "MPI.py").write_text(module)
    ended = mpi_rank(tmp_path)
    assert ended.returncode == 2
    assert told in ended.stderr and len(ended.stderr.splitlines()) == 1


@needs_mpi
def test_one_failing_rank_ends_all(tmp_path: Path) -> None:
    (tmp_path / "megacode").mkdir()
    for name, text in {"__init__": "", "cli": FAILING, "__main__": FAILING}.items():
        (tmp_path / "megacode" / f"{name}.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MEGACODE_VENV": sys.prefix}
    begun = time.monotonic()
    ended = subprocess.run(
        ["bash", str(LAUNCH / "mpirun.sh"), "run.toml"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode != 0 and time.monotonic() - begun < 30
    assert "rank 1 has had enough" in ended.stderr and "mpi_rank: rank 1 on" in ended.stderr


@needs_mpi
@pytest.mark.slow
def test_the_losses_are_those_of_torchrun(tiny_run: LaunchedRun, undisturbed: dict[int, float]) -> None:
    assert tiny_run.run("mpirun.sh", "mpi", *FOUR_RANKS) == undisturbed
