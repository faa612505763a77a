"""PREFIX.documents.parquet: row i says where document i of a shard is from, and how long it is.

Written and rewritten a group of rows at a time, so that a shard of any length takes the memory of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from megacode.data.atomic import partial
from megacode.data.errors import DataError

GROUP_ROWS = 1 << 14  # what finding one row reads


class DocumentRow(NamedTuple):
    """One document: `tokens` with its end-of-text, `bytes` of text; path and repository are empty once removed."""

    id: str
    repository: str
    path: str
    language: str
    kind: str
    tokens: int
    bytes: int


_TEXTS = ("id", "repository", "path", "language", "kind")
SCHEMA = pa.schema([(name, pa.string()) for name in _TEXTS] + [("tokens", pa.int64()), ("bytes", pa.int64())])


def table_path(prefix: Path) -> Path:
    """Return the document table's file name for `prefix`."""
    return prefix.with_name(prefix.name + ".documents.parquet")


class DocumentTableWriter:
    """Write a table under its temporary name; `close` completes it there, and the caller renames it."""

    def __init__(self, prefix: Path) -> None:
        self.path = table_path(prefix)
        self._rows: list[DocumentRow] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: DocumentRow) -> None:
        """Append one document."""
        self._rows.append(row)
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's end."""
        if self._rows or self._writer is None:
            self._flush()
        assert self._writer is not None
        self._writer.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
        partial(self.path).unlink(missing_ok=True)

    def _flush(self) -> None:
        """Write the held rows as one group."""
        if self._writer is None:  # opened late: many shards at once with few rows each hold no file open
            self._writer = pq.ParquetWriter(partial(self.path), SCHEMA, compression="zstd")
        columns = list(zip(*map(_storable, self._rows), strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._rows = []


class DocumentTable:
    """Read a shard's table: `documents` rows."""

    def __init__(self, prefix: Path | str) -> None:
        """Open it. Raises DataError when it is missing, damaged, or another table."""
        self.path = table_path(Path(prefix))
        if not self.path.is_file():
            raise DataError(f"{self.path}: missing; tokenize again to know where the documents are from")
        try:
            self._file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not a readable parquet file ({error}); tokenize again") from error
        if self._file.schema_arrow.names != SCHEMA.names or self._file.schema_arrow.types != SCHEMA.types:
            raise DataError(
                f"{self.path}: must have the columns {', '.join(SCHEMA.names)}, has "
                f"{', '.join(self._file.schema_arrow.names)}; tokenize again"
            )
        self.documents = self._file.metadata.num_rows

    def groups(self, columns: Sequence[str] = SCHEMA.names) -> Iterator[tuple[int, dict[str, list[Any]]]]:
        """Yield (number of the first document, values by column) for every group of rows."""
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            values = self._read(group, columns)
            yield first, values
            first += len(values[columns[0]])

    def row(self, document: int) -> DocumentRow:
        """Return one document's row. Raises DataError when there is no such document."""
        if not 0 <= document < self.documents:
            raise DataError(f"{self.path}: document must be in [0, {self.documents}); asked for {document}")
        group = 0
        while document >= (rows := self._file.metadata.row_group(group).num_rows):
            document, group = document - rows, group + 1
        return DocumentRow(**{name: values[0] for name, values in self._read(group, SCHEMA.names, document).items()})

    def _read(self, group: int, columns: Sequence[str], only: int | None = None) -> dict[str, list[Any]]:
        """Return one group's rows, or `only` one of them, by column. Raises DataError when it is damaged."""
        damaged = f"{self.path}: damaged in row group {group}"
        try:
            table = self._file.read_row_group(group, columns=list(columns))
            values = (table if only is None else table.slice(only, 1)).to_pydict()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{damaged} ({error}); tokenize again") from error
        expected = 1 if only is not None else self._file.metadata.row_group(group).num_rows
        if any(len(column) != expected or None in column for column in values.values()):
            raise DataError(f"{damaged} (values are missing); tokenize again")
        return values


def rewrite(prefix: Path, change: Callable[[int, DocumentRow], DocumentRow]) -> None:
    """Replace a shard's table by one with every row changed by `change`(number, row), whole or not at all."""
    writer = DocumentTableWriter(prefix)
    try:
        for first, columns in DocumentTable(prefix).groups():
            rows = map(DocumentRow._make, zip(*columns.values(), strict=True))
            for number, row in enumerate(rows, start=first):
                writer.add(change(number, row))
        writer.close()
    except BaseException:
        writer.discard()
        raise
    partial(writer.path).replace(writer.path)


def _storable(row: DocumentRow) -> tuple[str | int, ...]:
    """Return the row with lone surrogates, which no file can hold, as question marks."""
    return tuple(
        value.encode("utf-8", "replace").decode() if isinstance(value, str) and not value.isascii() else value
        for value in row
    )
