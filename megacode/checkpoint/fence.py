"""A run folder has one owner: the newest start of the run. An older one that is still alive must not commit.

`owner.json` says who. Each start writes itself there, and looks again right before each rename, under a file lock
where the file system has them.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from megacode.checkpoint.errors import Fenced
from megacode.checkpoint.folders import flush_folder

_OWNER, _LOCK = "owner.json", ".owner.lock"
_TOKEN_BITS = 62


@dataclass(frozen=True)
class Owner:
    """A start of a run: the run's id, how often it was started again, a number that no other start has, and where."""

    run: str
    restart: int
    token: int
    host: str
    pid: int


class Fence:
    """This start's hold on a run folder."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._folder, self.owner = folder, owner

    @classmethod
    def claim(cls, folder: Path) -> Fence:
        """Take the folder over from whoever had it. Raises OSError if it cannot be written to."""
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            before = _read(folder)
            owner = Owner(
                before.run if before else secrets.token_hex(8),
                before.restart + 1 if before else 0,
                secrets.randbits(_TOKEN_BITS),
                socket.gethostname(),
                os.getpid(),
            )
            partial = folder / f".{_OWNER}.{owner.token:016x}"
            partial.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
            partial.rename(folder / _OWNER)
            flush_folder(folder)
        return cls(folder, owner)

    def check(self) -> None:
        """Raise Fenced if another start has taken over."""
        now = _read(self._folder)
        if now is None or now.token != self.owner.token:
            who = f"start {now.restart} of run {now.run} (process {now.pid} on {now.host})" if now else "nobody"
            raise Fenced(
                f"{self._folder} now belongs to {who}; this start ({self.owner.restart}, process {self.owner.pid} on "
                f"{self.owner.host}) must not save there. Give each run a checkpoint.folder of its own"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from taking over while the block runs. Raises Fenced if one has already."""
        with _locked(self._folder):
            self.check()
            yield


def _read(folder: Path) -> Owner | None:
    """The owner on record; None where there is none, or none that can be understood."""
    try:
        return Owner(**json.loads((folder / _OWNER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # a file system without locks: the look before the rename has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
