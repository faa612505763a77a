"""A file is there whole or not at all: write under a temporary name, then rename."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def partial(path: Path) -> Path:
    """Return the temporary name under which `path` is written."""
    return path.with_name(path.name + ".partial")


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file for the block and rename it to `path` at the end; an exception leaves `path` as it was.

    `temporary`: its name where several processes may write `path` at once; `partial(path)` unless given.
    """
    temporary = temporary or partial(path)
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
