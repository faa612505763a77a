"""Which files a source is made of, in one order, and their fingerprint."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from megacode.data.errors import DataError
from megacode.data.prepare.languages import language_of

TABLE_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"})
NOT_CODE = "not known as source code"


@dataclass(frozen=True)
class Source:
    """Where documents come from: `root`, the sorted `files` under it, and `skipped` as (reason, path).

    `tables`: the files hold rows with a `content` column; otherwise each file is one document.
    """

    root: Path
    files: tuple[Path, ...]
    tables: bool
    skipped: tuple[tuple[str, str], ...]


def find_source(path: Path, out: Path) -> Source:
    """Return the source at `path`: a table file, a folder with nothing but table files, or a folder of code.

    Hidden files, links, the folders in SKIPPED_FOLDERS and the result folder `out` are left out.
    Raises DataError when there is nothing to read.
    """
    if path.is_file():
        if not _is_table(path):
            raise DataError(f"{path}: must be a folder of code or a file ending in {', '.join(TABLE_ENDINGS)}")
        return Source(path.parent, (path,), True, ())
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give a folder of code or a .jsonl or .parquet file")
    files = _walk(path, out.resolve())
    if files and all(_is_table(file) for file in files):
        return Source(path, tuple(files), True, ())
    known = tuple(file for file in files if language_of(file.name))
    other = tuple((NOT_CODE, file.relative_to(path).as_posix()) for file in files if not language_of(file.name))
    if not known:
        raise DataError(f"{path}: no source code here ({len(other)} other files); give a folder of code")
    return Source(path, known, False, other)


def limited(source: Source, limit: int | None) -> Source:
    """Return `source` with its first `limit` files only; None means all."""
    return source if limit is None else Source(source.root, source.files[:limit], source.tables, source.skipped)


def input_sha256(source: Source) -> str:
    """Return the fingerprint of every file's relative path and content, in hexadecimal."""
    total = hashlib.sha256()
    for path in source.files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{digest} {path.relative_to(source.root).as_posix()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _is_table(path: Path) -> bool:
    """Return whether a file's name says that it holds rows."""
    return path.name.lower().endswith(TABLE_ENDINGS)


def _walk(root: Path, out: Path) -> list[Path]:
    """Return the regular files under `root` but not under `out`, sorted by relative path."""
    found = []
    for folder, folders, names in os.walk(root):
        names_of_code = [name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS]
        folders[:] = [name for name in names_of_code if Path(folder, name).resolve() != out]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())
