"""`megacode bench` and launch/bench.sh: one result on stdout, mistakes before anything starts, peers kept apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
EXAMPLE = "examples/bench_cpu.toml"
SMALL = ("model.layers=1", "model.hidden=32", "model.heads=2", "model.ffn=64", "model.vocab=64", "data.sequence=16")
QUICK = ("train.global_batch=2", "train.precision=fp32", "--steps", "1", "--warm-up", "1")


def _bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megacode", "bench", EXAMPLE, *SMALL, *QUICK, *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, cwd=PROJECT, env=given, capture_output=True, text=True, check=False, timeout=120)


def test_the_figures_as_json() -> None:
    ended = _bench("--layouts", "1x1x2", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    (engine,) = found["engines"]
    assert (engine["layout"], engine["precision"], engine["ranks"]) == ("1x1x2", "fp32", 2)
    assert engine["tokens_per_second"] * engine["step_seconds"][0] == pytest.approx(2 * 16)
    assert engine["mfu"] is None and engine["bubble"] is None and engine["kernels"]
    assert found["comparisons"] == []


def test_mistakes_of_the_call_start_nothing() -> None:
    for arguments, said in (
        (("--against", "nemo"), "unknown peer; known: transformers, plain, megatron-core"),
        (("--layouts", "2x2"), "TPxPPxDP"),
        (("--with", "optim.clop=1"), "did you mean optim.clip?"),
    ):
        ended = _bench(*arguments)
        assert ended.returncode == 2 and said in ended.stderr, ended.stderr
    ended = _bench(WORLD_SIZE="2", RANK="0")
    assert ended.returncode == 2 and "starts its ranks itself" in ended.stderr


def test_a_failing_layout_of_ours_is_an_exit_code() -> None:
    ended = _bench('kernels.implementation="triton"')
    assert ended.returncode == 1 and "needs a CUDA device" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_script_installs_peers_into_an_environment_of_their_own_once(tmp_path: Path) -> None:
    peers, log = tmp_path / "peers", tmp_path / "pip.txt"
    (peers / "bin").mkdir(parents=True)
    python = peers / "bin" / "python"
    python.write_text(f'#!/bin/bash\n[ "$2" != pip ] || exec echo "$@" >>{log}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = ["bash", "launch/bench.sh", EXAMPLE, *SMALL, *QUICK, "--peers-env", str(peers), "--against"]
    environment = {**os.environ, "MEGACODE_VENV": str(Path(sys.executable).parents[1])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*script, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
        )

    wrong = run("plain", "model.heads=5")
    assert wrong.returncode == 2 and not log.exists(), wrong.stderr
    ended = run("plain", "--json", "--with", "optim.clip=0.5")
    assert ended.returncode == 0, ended.stderr
    assert [one["error"] for one in json.loads(ended.stdout)["engines"]] == ["", "", ""]
    (installed,) = log.read_text().splitlines()
    assert "torch==" in installed and "megatron" not in installed
    assert run("plain", "--layouts", "wrong").returncode == 2
    assert len(log.read_text().splitlines()) == 1, "installed once"
    assert run("megatron-core", "--layouts", "wrong").returncode == 2
    assert "megatron-core==" in log.read_text().splitlines()[-1]
