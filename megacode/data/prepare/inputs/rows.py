"""The rows of a table file, one at a time; what cannot be read is told as Damage, and reading goes on where it can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from megacode.data.compressed import RATIO_COUNTS_FROM, bounded_lines
from megacode.data.errors import DataError
from megacode.data.formats import rows
from megacode.data.opening import open_regular, shown
from megacode.data.prepare.options import Limits

# What The Stack (v1 and v2) calls the columns; the others are those of megacode.data.formats.rows.
PATH = ("path", "max_stars_repo_path", "filename")
IDENTITY = ("id", "hexsha", "blob_id")
LANGUAGE = ("language", "lang")

NOT_JSON, LONG_LINE, DAMAGED = "not JSON", "a line over limits.most_line_bytes", "damaged file"
NO_CONTENT = "a row without a text column `content`"
ROWS_AT_ONCE = 16  # of a parquet file, so that a few large documents are held at once
CONTENT = "content"
CODE_COLUMNS = frozenset(
    {CONTENT, *PATH, *IDENTITY, *LANGUAGE, *rows.REPOSITORY, *rows.LICENSES, *rows.STARS, *rows.DATE}
)


@dataclass(frozen=True)
class Damage:
    """Something that cannot be read: why, in few words, where, and the whole message for one who wants to mend it."""

    reason: str
    place: str
    message: str


@dataclass(frozen=True)
class NoDocument:
    """Something that is sound and no document: why, and where."""

    reason: str
    place: str


Read = tuple[str, Any] | Damage


def table_rows(path: Path, name: str, limits: Limits, is_code: bool) -> Iterator[Read]:
    """Yield (place, row) for each row of a .jsonl[.gz|.zst] or .parquet, a row being what JSON can say.

    A place is `name` and the row's number. Of code, only CODE_COLUMNS of a .parquet are read. A damaged file
    ends with the Damage, after the rows before it.
    """
    try:
        is_parquet = path.name.lower().endswith(".parquet")
        for where, read in _parquet(path, limits, is_code) if is_parquet else _jsonl(path, limits):
            place = f"{name}, {where}"
            if isinstance(read, _Fault):
                yield Damage(read.reason, place, f"{shown(path)}, {where}: {read.message}")
            else:
                yield place, read
    except DataError as error:
        yield Damage(DAMAGED, name, str(error))


def no_content(where: str, place: str, row: object) -> Damage:
    """Return the damage of a row whose `content` is missing or no text; `where` is its place with the whole path."""
    found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
    message = f"{where}: each row needs a text column `content`; found {found[:200]}; rename the column"
    return Damage(NO_CONTENT, place, message)


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a row."""

    reason: str
    message: str


def _jsonl(path: Path, limits: Limits) -> Iterator[tuple[str, Any]]:
    """Yield (line, row or _Fault) of JSON lines; empty lines are skipped."""
    for number, line in enumerate(bounded_lines(path, limits.bounds), start=1):
        where = f"line {number}"
        if line is None:
            most = f"limits.most_line_bytes = {limits.most_line_bytes:,}"
            yield where, _Fault(LONG_LINE, f"longer than {most}; raise it or cut the line")
        elif line.strip():
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, _Fault(NOT_JSON, f"not JSON ({error}); correct or remove the line")


def _parquet(path: Path, limits: Limits, is_code: bool) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a parquet file, a few at a time; a content that is stored once is held once."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_regular(path) as file:
            about = pyarrow.parquet.ParquetFile(file)
            _refuse_bombs(path, about.metadata, limits)
            names = about.schema_arrow.names
            if is_code and CONTENT not in names:
                raise DataError(f"{shown(path)}: needs a text column `content`; has {', '.join(names)[:200]}")
            columns = [column for column in names if column in CODE_COLUMNS] if is_code else names
            is_text = CONTENT in names and pyarrow.types.is_string(about.schema_arrow.field(CONTENT).type)
            table = pyarrow.parquet.ParquetFile(
                file,
                metadata=about.metadata,
                read_dictionary=[CONTENT] if is_text else None,
                pre_buffer=False,
                buffer_size=1 << 16,
                page_checksum_verification=True,
            )
            number = 0
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                for row in range(batch.num_rows):
                    number += 1
                    yield f"row {number}", _plain(batch.slice(row, 1).to_pylist()[0])
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError, OverflowError) as error:
        raise DataError(f"{shown(path)}: damaged parquet file ({error}); fetch or write it again") from error


def _refuse_bombs(path: Path, metadata: Any, limits: Limits) -> None:
    """Raise DataError for a file that says of itself that it unpacks to too much."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            unpacked, packed = chunk.total_uncompressed_size, max(chunk.total_compressed_size, 1)
            if unpacked > RATIO_COUNTS_FROM and unpacked > limits.most_unpacked_ratio * packed:
                raise DataError(
                    f"{shown(path)}: a column unpacks to {unpacked // packed} times its bytes; it looks like a "
                    "decompression bomb: raise limits.most_unpacked_ratio if it is not"
                )


def _plain(value: Any) -> Any:
    """Return what JSON can say of a parquet value: times as ISO 8601 text, bytes as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool) else None


def file_row(path: Path, place: str, limits: Limits) -> dict[str, Any] | Damage | NoDocument:
    """Return the row of a file that is one document, why it is none, or what is wrong with it.

    Its content stays bytes when they are not UTF-8; at most limits.most_file_bytes are read.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(limits.most_file_bytes + 1)
    except (DataError, OSError) as error:
        return Damage(
            "cannot be read", place, str(error) if isinstance(error, DataError) else f"{shown(path)}: {error}"
        )
    if len(raw) > limits.most_file_bytes:
        return NoDocument(f"a file over {limits.most_file_bytes:,} bytes", place)
    try:
        return {"content": raw.decode("utf-8"), "path": place}
    except UnicodeDecodeError:
        return {"content": raw, "path": place}
