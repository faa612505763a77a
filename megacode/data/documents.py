"""Prepared documents on disk: one JSON object a line (id, path, language, content), compressed with zstandard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

from megacode.data.atomic import replacing
from megacode.data.compressed import lines
from megacode.data.errors import DataError

COMPRESSION_LEVEL = 3


@dataclass(frozen=True)
class Document:
    """One source file: `id` as given, else a hash of `content`; `path` for people; `language` in lower case."""

    id: str
    path: str
    language: str
    content: str


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Replace `path` by `documents`; same documents, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).stream_writer(file) as out:
        for document in documents:
            out.write(json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n")


def read_documents(path: Path | str) -> Iterator[Document]:
    """Yield the documents of `path` in order. Raises DataError when it is missing, cut short or another format."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare the data first")
    for number, line in enumerate(lines(path), start=1):
        try:
            yield Document(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a prepared document ({error}); prepare again") from error
