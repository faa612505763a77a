"""A preparation in a process of its own that can be killed at a chosen moment.

python killed_run.py OPTIONS.json BUCKET_BYTES
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megacode.data.prepare import options_from, plan, prepare

ROOT = Path(__file__).parents[2]
SECONDS = 200


def start(
    folder: Path, table: dict[str, Any], bucket_bytes: int, prelude: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Start preparing; `table` holds the options, `prelude` is called in the new process first."""
    asked = folder / f"options-{Path(table['out']).name}.json"
    asked.write_text(json.dumps(table))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(asked), str(bucket_bytes)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=prelude)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must end well; returns what it said."""
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return said


def kill_when(process: subprocess.Popen[str], out: Path, pattern: str) -> bool:
    """Kill the run, and nobody else, as soon as a file of this pattern is in `out`; False when it ended before."""
    until = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < until:
        if next(out.glob(pattern), None) is not None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    assert process.poll() is not None, "the run hangs"
    process.communicate()
    return False


def children(pid: int) -> list[int]:
    """All processes below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def resident_bytes(pid: int) -> int:
    """What a process holds in memory; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def main(options: str, bucket_bytes: str) -> None:
    """Prepare, with buckets small enough for several."""
    plan.BUCKET_BYTES = int(bucket_bytes)
    prepare(options_from(json.loads(Path(options).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
