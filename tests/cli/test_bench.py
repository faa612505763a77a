"""`megacode bench` measures a configuration and says where the time went."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ONE_SMALL_PROCESS = ("parallel.tp=1", "parallel.pp=1", "parallel.dp=1", "train.global_batch=2", "model.layers=1")


def test_figures_of_one_process() -> None:
    command = [sys.executable, "-m", "megacode", "bench", "examples/tiny_cpu.toml", *ONE_SMALL_PROCESS, "--steps", "2"]
    ended = subprocess.run([*command, "--json"], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    seconds = figures["seconds"]
    assert figures["steps"] == 2 and figures["mfu"] is None and figures["peak_memory_bytes"] > 1 << 20
    assert abs(figures["tokens_per_second"] * seconds["total"] - 2 * 256) < 1
    assert max(seconds, key=lambda phase: seconds[phase] if phase != "total" else 0.0) == "compute"
