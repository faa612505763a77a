"""The whole line on a small folder of code: every file it promises is there, and a second start reuses what is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = (
    "parallel.tp=1", "model.layers=2", "model.hidden=64", "model.heads=4", "model.ffn=128", "model.vocab=600",
    "train.steps=12", "train.global_batch=8", "optim.lr_warmup=2", "train.validate_sequences=8",
)  # fmt: skip


def quickstart(out: Path) -> str:
    """Run launch/quickstart.sh on this project's own code with two processes; returns what it said."""
    command = ["bash", str(PROJECT / "launch" / "quickstart.sh"), "--source", str(PROJECT / "megacode")]
    command += ["--out", str(out), "--dp", "1", *SMALL]
    environment = {**os.environ, "MEGACODE_VENV": sys.prefix}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_from_source_code_to_a_model_and_a_report(tmp_path: Path) -> None:
    said = quickstart(tmp_path)
    assert "unigram entropy of the validation tokens" in said and "logits agree with transformers" in said
    assert "(reused)" not in said and "\r" not in said, "no progress bar where there is no terminal"
    for file in (
        "documents/manifest.json", "tokenizer/tokenizer.json", "shards/train.bin", "shards/validation.idx",
        "run/metrics.jsonl", "run/timeline.json", "run/FINISHED", "model/config.json", "model/model.safetensors",
        "model/generation_config.json", "model/tokenizer.json", "report.html",
    ):  # fmt: skip
        assert (tmp_path / file).is_file(), file
    completions = json.loads((tmp_path / "run" / "completions.json").read_text())
    assert {row["kind"] for row in completions} == {"prefix", "middle"}
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page

    again = quickstart(tmp_path)
    assert again.count("(reused)") >= 3 and "resuming after step 12" in again
