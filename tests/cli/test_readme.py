"""What the README tells a reader to type exists: scripts, files, commands and their options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        line.strip().split("#")[0].strip()
        for line in README.splitlines()
        if line.startswith(("    megacode", "    bash"))
    }
)

GROUPS = ("checkpoint", "data", "kernels", "tokenizer")


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("megacode")])
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    verbs = words[: 2 if words[0] in GROUPS else 1]
    command = [sys.executable, "-m", "megacode", *verbs, "--help"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=PROJECT, env={"COLUMNS": "200", "PATH": "/usr/bin"}
    )
    assert ended.returncode == 0, ended.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in ended.stdout, f"{line}: no option {option}"
    for file in (word for word in words if word.startswith("examples/")):
        assert (PROJECT / file).is_file(), file


def test_scripts_and_links_exist() -> None:
    named = set(re.findall(r"\blaunch/[\w.]+", README)) | set(re.findall(r"\]\(([\w/.]+)\)", README))
    named |= set(re.findall(r"`(tests/\w+)`", README)) | set(re.findall(r"examples/\w+\.toml", README))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []
