"""Opening files that others made: only regular ones, so that no FIFO is waited for and no device is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from megacode.data.errors import DataError


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading bytes. Raises DataError when it is not a regular file or cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be opened ({error.strerror}); see that it is there to read") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{shown(path)}: is no regular file; give a file or a folder of files")
    return os.fdopen(descriptor, "rb")


def shown(path: Path | str) -> str:
    """Return the path as text that can be printed and written, whatever bytes its name is made of."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
