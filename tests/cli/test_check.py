"""`megacode check` as a user calls it: answers, exit codes, and no torch on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STARCODER = PROJECT / "examples" / "starcoder_15b.toml"


def megacode(*arguments: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line; the exit code must be `expected`, and no traceback may show."""
    command = [sys.executable, "-m", "megacode", *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == expected, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def test_starcoder_is_sound() -> None:
    said = megacode("check", str(STARCODER)).stdout
    for fact in ("15,517,456,384 parameters", "4,194,304 tokens a step", "15.8 % bubble", "512 ranks", "is sound"):
        assert fact in said


def test_three_things_broken_are_three_problems() -> None:
    broken = ("parallel.tp=5", "train.global_batch=500", "optim.lr_warmpu=10")
    said = megacode("check", str(STARCODER), *broken, expected=2).stderr
    assert "3 problems" in said and len(said.strip().splitlines()) == 4
    assert "did you mean optim.lr_warmup?" in said and "nearest 480, 512" in said and "must divide model.heads" in said


def test_json_for_launchers() -> None:
    answer = json.loads(megacode("check", str(STARCODER), "parallel.dp=16", "--json").stdout)
    assert (answer["world_size"], answer["parameters"]) == (256, 15_517_456_384)


@pytest.mark.parametrize("arguments", [("--help",), ("check", str(STARCODER))])
def test_answers_without_torch(arguments: tuple[str, ...]) -> None:
    """What makes the command answer at once."""
    command = [sys.executable, "-X", "importtime", "-m", "megacode", *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")
    }
    assert "megacode.cli" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "triton", "numpy", "transformers")}


@pytest.mark.parametrize(
    ("arguments", "expected", "told"),
    [
        (("check", "nowhere.toml"), 2, "does not exist"),
        (("train", "examples/tiny_cpu.toml", "data.train=nowhere"), 2, "make it with `megacode tokenize`"),
        (("export", "nowhere", "--out", "elsewhere"), 1, "neither a checkpoint nor a run folder"),
        (("complete", "nowhere", "--prefix", "x"), 1, "neither a checkpoint nor a run folder"),
        (("tokenize", "nowhere", "--tokenizer", "nowhere", "--prefix", "x"), 1, "nowhere"),
        (("tokenizer", "train", "nowhere.jsonl.zst", "--out", "x"), 1, "prepare the data first"),
        (("prepare", "--source", "nowhere", "--out", "x"), 1, "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_message(arguments: tuple[str, ...], expected: int, told: str) -> None:
    said = megacode(*arguments, expected=expected).stderr
    assert told in said and len(said.strip().splitlines()) <= 5


def test_the_configuration_page_is_current() -> None:
    from megacode.config.reference import render_reference

    assert (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8") == render_reference(), (
        "run `python -m megacode.config.reference > docs/configuration.md`"
    )
