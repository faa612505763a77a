"""metrics.jsonl: one JSON object per line, appended by one rank while a run goes on.

A row is one write, so a killed run leaves at most one torn line, at the end, and nobody ever reads it. Numbers that
are not finite (the loss of a run that blew up) are stored as null: JSON has no NaN.

Kinds of rows: `start` (world_size, parameters, …), `step` (step counted from 1, after the update; loss in nats per
token; tokens so far; tokens_per_second; seconds by phase), `validation` (step, left_to_right, psm, spm; of several
sources also SOURCE.KIND) and `checkpoint` (step, bytes, seconds of stall, copy and writing, failure).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Row = dict[str, Any]


class MetricsError(ValueError):
    """A metrics file that this program did not write; the message names file and line."""


class MetricsLog:
    """An open metrics.jsonl. Creates its folder, and drops a torn last line that a killed run left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open(path)
        _drop_torn_line(self._file)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row with a single write. Raises ValueError for a row without a kind, OSError on a full disk."""
        if "kind" not in row:
            raise ValueError(f"a row of {self.path} needs a kind: start, step or validation; found keys {sorted(row)}")
        line = (json.dumps(_finite(row), allow_nan=False) + "\n").encode()
        if (written := os.write(self._file, line)) != len(line):
            raise OSError(f"{self.path}: {written} of {len(line)} bytes written; is the disk full?")

    def truncate_after(self, step: int) -> None:
        """Drop the rows of later steps, which a run resumed at `step` will write again; rows without a step stay.

        The file is replaced whole or not at all. Raises MetricsError for a file that cannot be read.
        """
        kept = [row for row in read_rows(self.path) if row.get("step", step) <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        os.close(self._file)
        self._file = _open(self.path)

    def close(self) -> None:
        """Close the file; a closed log takes no more rows."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file in order; a torn last line is left out.

    Raises FileNotFoundError, and MetricsError with file and line for any other line that is not a JSON object.
    """
    return list(_rows(path))


def _rows(path: Path) -> Iterator[Row]:
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MetricsError(f"{path}:{number}: not JSON ({error}); repair or remove the line") from error
        if not isinstance(row, dict):
            raise MetricsError(f"{path}:{number}: not a JSON object; repair or remove the line")
        yield row


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)


def _drop_torn_line(file: int) -> None:
    """Cut the file after its last newline."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - (1 << 16))
        newline = os.pread(file, end - start, start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    os.ftruncate(file, end)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
