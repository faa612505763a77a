"""`megacode kernels report`, `megacode kernels check` and `megacode doctor` as a person calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


def megacode(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command, env = [sys.executable, "-m", "megacode", *arguments], {**ENVIRONMENT, **environment}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)


def test_report_prints_rows() -> None:
    ended = megacode("kernels", "report", "--json", "--target", "sm_90", "--op", "scale_")
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)
    assert list(row) == [
        "kernel", "op", "shape", "target", "registers", "spill_bytes", "shared_bytes", "warps", "occupancy",
        "tensor_cores", "bytes", "least_bytes", "flops", "roofline_us",
    ]  # fmt: skip
    assert (row["kernel"], row["target"], row["tensor_cores"]) == ("scale_kernel", "sm_90", False)


@pytest.mark.parametrize(
    ("options", "interpret", "answer"),
    [
        (["--target", "sm_12"], "0", "choose of sm_80, sm_90"),
        (["--op", "rotation"], "0", "there is no op 'rotation'; choose one of"),
        (["--op", "scale_"], "1", "start one without TRITON_INTERPRET"),
    ],
)
def test_report_refuses_in_one_line_what_it_cannot_do(options: list[str], interpret: str, answer: str) -> None:
    ended = megacode("kernels", "report", *options, TRITON_INTERPRET=interpret)
    assert ended.returncode == 2 and answer in ended.stderr, ended.stderr
    assert ended.stderr.count("\n") == 1 and not ended.stdout


def test_report_says_where_triton_is_missing(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('there is no triton')\n")
    ended = megacode("kernels", "report", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2 and "needs Triton (there is no triton): pip install megacode[gpu]" in ended.stderr
    assert ended.stderr.count("\n") == 1


@without_gpu
def test_check_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    for command in (
        [sys.executable, "-m", "megacode", "kernels", "check", "--out", str(out)],
        ["bash", "launch/gpu_check.sh", "--out", str(out), "--quick"],
    ):
        ended = subprocess.run(command, cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert ended.returncode == 2 and not ended.stdout and not out.exists()
        assert ended.stderr == "kernels check needs a CUDA GPU, and torch sees none here\n"


def test_doctor_names_what_runs() -> None:
    ended = megacode("doctor", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["torch"] == torch.__version__
    assert found["kernels"]["cpu"]["auto"]["layer_norm"] == "torch"
    assert "needs a CUDA device" in found["kernels"]["cpu"]["triton"]
    text = megacode("doctor").stdout
    assert "kernels.implementation = 'auto' on cpu:" in text and f"torch    {torch.__version__}" in text
