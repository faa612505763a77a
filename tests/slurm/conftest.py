"""A real Slurm of two virtual nodes, started once and always stopped, and the tiny run."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launched_run import EIGHT_RANKS, LaunchedRun

SCRIPTS = Path(__file__).parent / "cluster"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


@dataclass(frozen=True)
class Cluster:
    """The virtual cluster; `environment` is what its commands need."""

    environment: dict[str, str]

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """Run a Slurm command and return what it printed."""
        ended = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr}"
        return ended.stdout.strip()

    def state(self, job: str) -> str:
        """The job's state, such as RUNNING."""
        found = re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", job))
        assert found
        return found[1]

    def wait(self, job: str, output: Path, seconds: float = 150) -> None:
        """Return when the job is COMPLETED; any other end, or none within `seconds`, is an AssertionError."""
        until = time.monotonic() + seconds
        while (state := self.state(job)) not in ENDED and time.monotonic() < until:
            time.sleep(0.5)
        assert state == "COMPLETED", f"job {job} is {state}:\n{output.read_text() if output.exists() else ''}"


def _start(script: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPTS / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; skips where it cannot be had, fails where it does not start."""
    if os.geteuid() != 0:
        pytest.skip("a virtual Slurm cluster needs root")
    if not shutil.which("slurmctld") and not shutil.which("apt-get"):
        pytest.skip("neither Slurm nor apt-get to install it")
    folder = Path(tempfile.gettempdir()) / "megacode-slurm"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
        "SLURM_TEST_DIR": str(folder),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "SLURM_TEST_NODES": "2",
        "MEGACODE_VENV": sys.prefix,
    }
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one cluster on a machine: they would share ports and host names
        try:
            started = _start("start_slurm.sh", environment, "--fresh")
            if "apt-get" in started.stderr and started.returncode:
                pytest.skip(f"Slurm cannot be installed here: {started.stderr.strip().splitlines()[-1]}")
            assert started.returncode == 0, started.stderr
            yield Cluster(environment)
        finally:
            _start("stop_slurm.sh", environment, "--wipe")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> LaunchedRun:
    """A run in a folder of its own."""
    return LaunchedRun.make(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="session")
def undisturbed(tiny_run: LaunchedRun) -> dict[int, float]:
    """The losses of the run on eight ranks of one machine under torchrun, by step."""
    return tiny_run.run("torchrun.sh", "undisturbed", *EIGHT_RANKS)
