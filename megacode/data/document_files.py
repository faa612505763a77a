"""The files that prepared documents lie in: one .jsonl.zst, several, or a folder of them; and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from megacode.data.documents import Document, read_documents
from megacode.data.errors import DataError

ENDING = ".jsonl.zst"

Documents = Path | str | Sequence[Path | str]


def document_files(documents: Documents) -> list[Path]:
    """Return the files: one as it is, a folder's *.jsonl.zst by name, a list's in its order.

    Raises DataError when one is missing or a folder has none.
    """
    if not isinstance(documents, Path | str):
        return [file for one in documents for file in document_files(one)]
    path = Path(documents)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(ENDING) and file.is_file())
        if not files:
            raise DataError(f"{path}: no {ENDING} files in this folder; prepare the data first")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare the data first")
    return [path]


def read_all(files: Sequence[Path]) -> Iterator[Document]:
    """Yield the documents of `files` in order. Raises DataError as `read_documents` does."""
    for file in files:
        yield from read_documents(file)


def texts_of(document: Document) -> Iterator[str]:
    """Yield a document's texts without its special tokens, empty ones left out."""
    return (text for _, text in document.pieces if text)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(files: Sequence[Path]) -> str:
    """Return the fingerprint of files in their order: one file's sha256, or the sha256 of all of theirs."""
    each = [sha256_of(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()
