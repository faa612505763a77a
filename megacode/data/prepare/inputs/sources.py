"""Which files the sources are made of, in one order whatever order the file system lists them in.

Links, FIFOs, sockets and devices are never opened, so nothing waits and no loop is followed; what is left out is
counted. A folder that holds nothing but table files is rows; any other folder is files of code.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megacode.data.errors import DataError
from megacode.data.opening import shown
from megacode.data.prepare.inputs.checkouts import Checkout, is_checkout, read_checkout
from megacode.data.prepare.options import PrepareOptions, Source
from megacode.data.prepare.tally import COLLECT, Tally

TABLE_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
PACKED_TIMES = 4  # source bytes in a packed byte of a table, roughly; only the number of buckets depends on it
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"})
LINK, SPECIAL, UNREADABLE = "symbolic link", "no regular file (FIFO, socket or device)", "cannot be read"


@dataclass(frozen=True)
class Input:
    """One file to read: where it is, which source it is of, and its name there.

    `place` is relative to the checkout it is in, else to the source. `checkout` counts those of the listing, -1: none.
    """

    path: str
    source: int
    place: str
    is_table: bool
    file_bytes: int
    changed: int
    checkout: int


@dataclass(frozen=True)
class Listing:
    """All input: files in order, the checkouts they are in, and what was left out."""

    files: tuple[Input, ...]
    checkouts: tuple[Checkout, ...]
    skipped: Tally

    @property
    def source_bytes(self) -> int:
        """About how many bytes of text the files hold."""
        return sum(one.file_bytes * (PACKED_TIMES if _is_packed(one.path) else 1) for one in self.files)

    @property
    def fingerprint(self) -> str:
        """The sha256 of every file's name, bytes and time of last change, and of the checkouts, in hexadecimal."""
        total = hashlib.sha256(json.dumps([asdict(checkout) for checkout in self.checkouts]).encode())
        for one in self.files:
            total.update(f"{json.dumps([one.source, one.place, one.file_bytes, one.changed])}\n".encode())
        return total.hexdigest()


def find_inputs(options: PrepareOptions) -> Listing:
    """Return the listing of all sources. Raises DataError for a source without anything to read."""
    files: list[Input] = []
    checkouts: list[Checkout] = []
    skipped = Tally()
    for number, source in enumerate(options.sources):
        found = list(_of_source(number, source, options, checkouts, skipped))
        found.sort(key=lambda one: os.fsencode(one.path))
        files += found
    return Listing(tuple(files[: options.limits.files]), tuple(checkouts), skipped)


def _of_source(
    number: int, source: Source, options: PrepareOptions, checkouts: list[Checkout], skipped: Tally
) -> Iterator[Input]:
    """Yield the files of one source; the checkouts they are in are added to `checkouts`."""
    root = Path(source.path).absolute()
    if root.is_file():
        if not _is_table(root.name):
            raise DataError(f"{shown(root)}: must be a folder of code or a file ending in {', '.join(TABLE_ENDINGS)}")
        about = root.stat()
        yield Input(str(root), number, shown(root.name), True, about.st_size, about.st_mtime_ns, -1)
        return
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such file or folder; give a folder of code or a .jsonl or .parquet file")
    walk = _Walk(root, options.out.resolve(), skipped, options.limits.on_damage == "skip")
    found = list(walk.files())
    if not found:
        raise DataError(f"{shown(root)}: no files here; give a folder of code, or of .jsonl or .parquet files")
    are_tables = all(_is_table(path.name) for path, _, _ in found)
    if source.kind in ("issue", "commit") and not are_tables:
        raise DataError(f"{shown(root)}: a source of {source.kind}s needs files ending in {', '.join(TABLE_ENDINGS)}")
    numbers: dict[Path, int] = {}
    for path, about, top in found:
        if top is not None and not are_tables and top not in numbers:
            numbers[top] = len(checkouts)
            checkouts.append(read_checkout(top))
        checkout = numbers.get(top, -1) if top is not None else -1
        place = path.relative_to(top if checkout >= 0 and top is not None else root)
        size, changed = about.st_size, about.st_mtime_ns
        yield Input(str(path), number, shown(place.as_posix()), are_tables, size, changed, checkout)


class _Walk:
    """The regular files below `root`, less hidden ones, what SKIPPED_FOLDERS hold and what is below `out`."""

    def __init__(self, root: Path, out: Path, skipped: Tally, lenient: bool) -> None:
        self._root, self._out, self._skipped, self._lenient = root, out, skipped, lenient

    def files(self) -> Iterator[tuple[Path, os.stat_result, Path | None]]:
        """Yield each file, what is known of it, and the top of the checkout it is in."""
        pending: list[tuple[Path, Path | None]] = [(self._root, None)]
        while pending:
            folder, top = pending.pop()
            top = folder if is_checkout(folder) else top
            for path, about in self._entries(folder):
                if stat.S_ISREG(about.st_mode):
                    yield path, about, top
                elif not stat.S_ISDIR(about.st_mode):
                    self._skip(LINK if stat.S_ISLNK(about.st_mode) else SPECIAL, path)
                elif path.name not in SKIPPED_FOLDERS and path.resolve() != self._out:
                    pending.append((path, top))

    def _entries(self, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield what is in a folder, less what is hidden."""
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            self._damage(folder, error)
            return
        for path in paths:
            try:
                about = path.lstat()
            except OSError as error:
                self._damage(path, error)
            else:
                yield path, about

    def _damage(self, path: Path, error: OSError) -> None:
        if not self._lenient:
            raise DataError(
                f"{shown(path)}: cannot be read ({error.strerror}); give it to the reader, or set limits.on_damage=skip"
            ) from error
        self._skip(UNREADABLE, path)

    def _skip(self, reason: str, path: Path) -> None:
        self._skipped.drop(COLLECT, reason, shown(path.relative_to(self._root).as_posix()))


def inputs_text(inputs: Sequence[Input]) -> str:
    """Return the text of a file that `read_inputs` reads."""
    return "".join(json.dumps(list(asdict(one).values())) + "\n" for one in inputs)


def read_inputs(path: Path, rank: int, tasks: int) -> Iterator[Input]:
    """Yield every input that task `rank` of `tasks` reads: rank, rank + tasks, …"""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number % tasks == rank:
                yield Input(*json.loads(line))


def _is_table(name: str) -> bool:
    """Return whether a file's name says that it holds rows."""
    return name.lower().endswith(TABLE_ENDINGS)


def _is_packed(path: str) -> bool:
    """Return whether a file is a table that is smaller on disk than its text."""
    return path.lower().endswith((".jsonl.gz", ".jsonl.zst", ".parquet"))
