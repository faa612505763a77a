"""Step 1: files or rows to documents, in one order whatever order they came in; what is not text is counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megacode.console import progress
from megacode.data.compressed import lines
from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.prepare.languages import language_of
from megacode.data.prepare.report import StepReport, step_report
from megacode.data.prepare.sources import Source

BINARY = "binary (NUL bytes)"
NOT_UTF8 = "not UTF-8"
UNKNOWN = "unknown"


def collect(source: Source) -> tuple[list[Document], StepReport]:
    """Return the source's documents sorted by (path, id), and the step's report.

    A document's `id` is its row's, else the first 16 hexadecimal digits of its content's sha256.
    Raises DataError for a table without `content` and for rows that cannot be read.
    """
    documents, dropped = [], list(source.skipped)
    with progress("collect", len(source.files)) as advance:
        for file in source.files:
            for path, row in _rows(file) if source.tables else _file(source.root, file):
                content = row["content"]
                reason = _not_text(content)
                if reason:
                    dropped.append((reason, path))
                else:
                    documents.append(_document(path, row))
            advance(1)
    documents.sort(key=lambda document: (document.path, document.id, document.content))
    return documents, step_report("collect", documents, dropped)


def content_id(content: str) -> str:
    """Return the first 16 hexadecimal digits of the content's sha256."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _not_text(content: object) -> str | None:
    """Return why `content` (text, or bytes that are no text) is no document, or None."""
    if isinstance(content, bytes):
        return BINARY if b"\0" in content else NOT_UTF8
    text = str(content)
    if "\0" in text:
        return BINARY
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return NOT_UTF8
    return None


def _document(path: str, row: dict[str, Any]) -> Document:
    """Return the document of a row whose content is text."""
    content = row["content"]
    language = str(row.get("language") or language_of(path) or UNKNOWN).lower()
    return Document(str(row.get("id") or content_id(content)), path, language, content)


def _file(root: Path, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the one row of a source file; its content stays bytes when they are not text."""
    path = file.relative_to(root).as_posix().encode("utf-8", "replace").decode()
    raw = file.read_bytes()
    try:
        yield path, {"content": raw.decode("utf-8")}
    except UnicodeDecodeError:
        yield path, {"content": raw}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, row) for each row of a table. Raises DataError when `content` is missing or no text."""
    reader = _parquet if file.name.lower().endswith(".parquet") else _jsonl
    for place, row in reader(file):
        if not isinstance(row, dict) or not isinstance(row.get("content"), str):
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{place}: each row needs a text column `content`; found {columns}; rename the column")
        path = row.get("path")
        yield (path if isinstance(path, str) and path else _name_of_row(row["content"], place)), row


def _name_of_row(content: str, place: str) -> str:
    """Return a name for a row without a path: its content's id, or where it stands when that has no bytes."""
    try:
        return content_id(content)
    except UnicodeEncodeError:
        return place


def _jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a .jsonl, plain or compressed; empty lines are skipped."""
    for number, line in enumerate(lines(file), start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error}); correct or remove the line") from error


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a .parquet, reading only the columns that are used."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = [name for name in ("id", "path", "language", "content") if name in table.schema_arrow.names]
        if "content" not in names:
            raise DataError(f"{file}: needs a text column `content`; has {', '.join(table.schema_arrow.names)}")
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: damaged parquet file ({error}); fetch or write it again") from error
