"""`megacode --help` answers without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLI = Path(__file__).parents[2] / "megacode" / "cli.py"


@pytest.mark.skipif(not CLI.exists(), reason="megacode/cli.py is not there yet")
def test_help_imports_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "megacode", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "megacode.cli" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "triton", "numpy", "transformers")}
