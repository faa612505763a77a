"""A tiny run that real launchers start: its data, its file, and what to read from its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from disk_run import PROJECT, make_data

FOUR_RANKS = ("parallel.tp=2", "parallel.pp=2")
EIGHT_RANKS = (*FOUR_RANKS, "parallel.dp=2")

# 24 steps of several micro-batches: long enough that a signal sent after step 3 arrives before the end.
RUN = """
[model]
layers = 2
hidden = 32
heads = 4
vocab = 512
context = 64
[data]
train = "{data}/train"
tokenizer = "{data}"
sequence = 64
[optim]
lr = 1e-3
[train]
steps = 24
global_batch = 8
micro_batch = 1
precision = "fp32"
[checkpoint]
every = 10
[launch]
device = "cpu"
timeout_seconds = 60
"""


@dataclass(frozen=True)
class LaunchedRun:
    """A run's file and the ways to start it; every start names its own folder beside the file."""

    file: Path

    @classmethod
    def make(cls, folder: Path) -> LaunchedRun:
        """Write the shard, the tokenizer and run.toml into `folder`."""
        make_data(folder / "data")
        (folder / "run.toml").write_text(RUN.format(data=folder / "data"), encoding="utf-8")
        return cls(folder / "run.toml")

    def folder(self, name: str) -> Path:
        """The run folder of the start called `name`."""
        return self.file.parent / name

    def arguments(self, name: str, *overrides: str) -> list[str]:
        """What follows the launcher's name on the command line."""
        return [str(self.file), f"checkpoint.folder={self.folder(name)}", *overrides]

    def start(self, launcher: str, name: str, *overrides: str) -> subprocess.Popen[str]:
        """Start `launch/LAUNCHER` in the run's directory; its output goes to NAME.log."""
        environment = {**os.environ, "MEGACODE_VENV": sys.prefix}
        command = ["bash", str(PROJECT / "launch" / launcher), *self.arguments(name, *overrides)]
        with self.log(name).open("a") as log:
            return subprocess.Popen(
                command, cwd=self.file.parent, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )

    def log(self, name: str) -> Path:
        """Where `start` sends what the launcher and the ranks say."""
        return self.file.parent / f"{name}.log"

    def run(self, launcher: str, name: str, *overrides: str) -> dict[int, float]:
        """Start, wait for a good end, and return the losses by step."""
        code = self.start(launcher, name, *overrides).wait(120)
        assert code == 0, f"{launcher} ended with {code}:\n{self.log(name).read_text()}"
        return self.losses(name)

    def losses(self, name: str) -> dict[int, float]:
        """The losses by step that NAME's metrics.jsonl holds by now."""
        metrics = self.folder(name) / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return {row["step"]: row["loss"] for row in rows if row["kind"] == "step"}

    def wait_for_step(self, name: str, step: int, seconds: float = 60) -> None:
        """Return once `step` is in NAME's metrics. Raises TimeoutError after `seconds`."""
        until = time.monotonic() + seconds
        while step not in self.losses(name):
            if time.monotonic() > until:
                raise TimeoutError(f"no step {step} of {name} after {seconds} s")
            time.sleep(0.05)
