"""Remove documents from a shard that is in use, so that they are gone and every other sample stays as it was.

Four steps, each whole or not at all, and each the same when done again: tombstones first (whatever happens afterwards,
nobody reads the documents again), then end-of-text over their tokens in place, their names out of the table, the new
checksums into the sidecar. The numbers and places of all other documents stay. What this cannot reach are copies: the
prepared documents, snapshots, and blocks that a copy-on-write file system keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from megacode.data.document_files import sha256_of
from megacode.data.errors import DataError
from megacode.data.shards.document_table import DocumentRow, DocumentTable, rewrite, table_path
from megacode.data.shards.indexed import ShardReader, bin_path
from megacode.data.shards.removal_list import RemovalList
from megacode.data.shards.sidecar import check_counts, read_sidecar, sidecar_path, write_sidecar
from megacode.data.shards.tombstones import Request, Tombstones, read_tombstones, tombstones_path, write_tombstones

NOBODY = RemovalList()


@dataclass(frozen=True)
class RemovalReport:
    """One shard's removal: documents and tokens newly removed, documents removed in all, ids of the new ones.

    `resumed`: a removal that had been interrupted was completed.
    """

    prefix: Path
    documents: int
    tokens: int
    removed: int
    ids: tuple[str, ...]
    resumed: bool


def remove_documents(
    prefix: Path | str,
    listed: RemovalList = NOBODY,
    *,
    ids: Iterable[str] = (),
    repositories: Iterable[str] = (),
    paths: Iterable[str] = (),
    who: str = "",
    when: str = "",
    why: str = "",
) -> RemovalReport:
    """Remove what a removal list names, and documents with one of these ids, repositories or paths.

    Completes a removal that was interrupted, and with nobody named does only that. `who`, `when` and `why` are kept as
    given. A running training sees end-of-text in the documents' place at once, and their numbers in
    `ShardReader.removed` when it opens the shard next. Raises DataError when the shard is damaged; nothing is changed
    then.
    """
    listed |= RemovalList.of(ids, repositories, paths)
    prefix = Path(prefix)
    before = read_tombstones(prefix)
    reader, sidecar, table = ShardReader(prefix), read_sidecar(prefix), DocumentTable(prefix)
    check_counts(reader, sidecar)
    if table.documents != reader.documents:
        raise DataError(
            f"{table.path}: has {table.documents} documents, the shard has {reader.documents}; tokenize again"
        )
    new = _new(table, listed, before)
    if not new and before.finished:
        return RemovalReport(prefix, 0, 0, len(before.documents), (), resumed=False)
    if before.finished:  # afterwards the checksums are made anew: never to bless damage that was there before
        _check_sums(prefix, (sidecar.bin_sha256, sidecar.documents_sha256))
    request = Request(who, when, why, listed, len(new))
    both = dict(zip(before.documents, before.ids, strict=True)) | new
    order = sorted(both)
    tombstones = Tombstones(
        documents=tuple(order),
        ids=tuple(both[number] for number in order),
        requests=(*before.requests, request) if new else before.requests,
        finished=False,
    )
    write_tombstones(prefix, tombstones)
    _to_disk(tombstones_path(prefix))  # a power cut must not keep what follows and lose this
    overwrite_tokens(reader, tombstones.documents, sidecar.end_of_text)
    blank_rows(prefix, frozenset(order))
    write_sidecar(
        prefix,
        replace(
            sidecar,
            removed=len(order),
            bin_sha256=sha256_of(bin_path(prefix)),
            documents_sha256=sha256_of(table_path(prefix)),
        ),
    )
    write_tombstones(prefix, replace(tombstones, finished=True))
    tokens = sum(int(reader.lengths[number]) for number in new)
    return RemovalReport(prefix, len(new), tokens, len(order), tuple(new.values()), resumed=not before.finished)


def overwrite_tokens(reader: ShardReader, documents: Iterable[int], end_of_text: int) -> None:
    """Put end-of-text over every token of `documents` in the token file, and have it on the disk."""
    width = reader.dtype.itemsize
    places = [(reader.start(number), reader.document(number).size) for number in documents]
    with bin_path(reader.prefix).open("r+b") as file:
        for start, count in places:
            file.seek(start * width)
            file.write(np.full(count, end_of_text, dtype=reader.dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())


def blank_rows(prefix: Path, documents: frozenset[int]) -> None:
    """Empty repository and path of `documents` in the table; the id stays, so that the removal can be proven."""

    def change(number: int, row: DocumentRow) -> DocumentRow:
        return row._replace(repository="", path="") if number in documents else row

    rewrite(prefix, change)


def _to_disk(path: Path) -> None:
    """Have a file's content and its name on the disk."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new(table: DocumentTable, listed: RemovalList, before: Tombstones) -> dict[int, str]:
    """Return number and id of the documents that are to go and have not gone yet."""
    gone = frozenset(before.documents)
    found: dict[int, str] = {}
    for first, columns in table.groups(("id", "repository", "path")) if listed else ():
        rows = zip(columns["id"], columns["repository"], columns["path"], strict=True)
        for number, row in enumerate(rows, start=first):
            if listed.names(*row) and number not in gone:
                found[number] = row[0]
    return found


def _check_sums(prefix: Path, expected: tuple[str, str]) -> None:
    """Raise DataError unless token file and table are what the sidecar says."""
    for path, wanted in zip((bin_path(prefix), table_path(prefix)), expected, strict=True):
        if sha256_of(path) != wanted:
            raise DataError(
                f"{path}: its sha256 is not the one in {sidecar_path(prefix).name}; the file is damaged or another: "
                f"tokenize again ({tombstones_path(prefix).name} is unchanged)"
            )
