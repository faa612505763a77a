"""Read a whole shard and say everything that is wrong with it: what opening does not look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megacode.data.document_files import sha256_of
from megacode.data.errors import DataError
from megacode.data.shards.document_table import DocumentTable, table_path
from megacode.data.shards.indexed import ShardReader, bin_path, idx_path
from megacode.data.shards.sidecar import Sidecar, check_counts, read_sidecar, sidecar_path
from megacode.data.shards.tombstones import read_tombstones, tombstones_path

TOKENS_AT_ONCE = 1 << 24


def verify_shard(prefix: Path | str) -> list[str]:
    """Return what is wrong with a shard, nothing for a sound one: "FILE: what differs".

    Looks at every row and token: the index's consistency, the checksums of all files, ids inside the vocabulary,
    end-of-text after every document, and removed documents' tokens and names gone. Takes the time to read the files
    twice, and the memory of a few million tokens.
    """
    prefix = Path(prefix)
    problems: list[str] = []
    sidecar, reader = None, None
    try:
        sidecar = read_sidecar(prefix)
        problems += _sums(prefix, sidecar)
    except DataError as error:
        problems.append(str(error))
    try:
        reader = ShardReader(prefix)
        reader.check_rows()
    except DataError as error:
        return [*problems, str(error)]
    if sidecar is not None:
        problems += [*_counts(reader, sidecar), *_tokens(reader, sidecar)]
    try:
        problems += _table(reader, sidecar)
    except DataError as error:
        problems.append(str(error))
    return problems


def _sums(prefix: Path, sidecar: Sidecar) -> Iterator[str]:
    """Yield the files whose checksum is not the sidecar's."""
    sums = (sidecar.bin_sha256, sidecar.idx_sha256, sidecar.documents_sha256)
    for path, wanted in zip((bin_path(prefix), idx_path(prefix), table_path(prefix)), sums, strict=True):
        if not path.is_file():
            yield f"{path}: missing"
        elif (found := sha256_of(path)) != wanted:
            yield f"{path}: sha256 must be {wanted} by {sidecar_path(prefix).name}, is {found}"


def _counts(reader: ShardReader, sidecar: Sidecar) -> Iterator[str]:
    """Yield how the shard's counts differ from the sidecar's, and an unfinished removal."""
    try:
        check_counts(reader, sidecar)
    except DataError as error:
        yield str(error)
    tombstones = read_tombstones(reader.prefix)
    if not tombstones.finished or len(tombstones.documents) != sidecar.removed:
        yield f"{tombstones_path(reader.prefix)}: a removal was interrupted; remove again to complete it"


def _tokens(reader: ShardReader, sidecar: Sidecar) -> Iterator[str]:
    """Yield documents that don't end in end-of-text, removed ones that are still there, and ids that are none."""
    data, end_of_text = bin_path(reader.prefix), sidecar.end_of_text
    counts = reader.token_counts(TOKENS_AT_ONCE)
    if counts.size > sidecar.vocab_size:
        yield f"{data}: token ids must be below {sidecar.vocab_size}, the highest is {counts.size - 1}"
    unended = 0
    for number in range(reader.documents):
        tokens = reader.document(number)
        unended += not tokens.size or int(tokens[-1]) != end_of_text
    if unended:
        yield f"{data}: {unended} documents don't end in end-of-text ({end_of_text})"
    left = [number for number in reader.removed.tolist() if np.any(reader.document(number) != end_of_text)]
    if left:
        yield f"{data}: {len(left)} removed documents still have tokens, the first is {left[0]}"


def _table(reader: ShardReader, sidecar: Sidecar | None) -> Iterator[str]:
    """Yield how the document table differs from index and sidecar, and removed documents that are still named."""
    table = DocumentTable(reader.prefix)
    if table.documents != reader.documents:
        yield f"{table.path}: has {table.documents} documents, the shard has {reader.documents}"
        return
    named = content_bytes = 0
    for first, columns in table.groups(("repository", "path", "tokens", "bytes")):
        content_bytes += sum(columns["bytes"])
        lengths = np.array(columns["tokens"], dtype=np.int64)
        other = np.flatnonzero(lengths != reader.lengths[first : first + lengths.size])
        if other.size:
            yield f"{table.path}: tokens of document {first + int(other[0])} are not those of the index"
        for row, names in enumerate(zip(columns["repository"], columns["path"], strict=True), start=first):
            named += reader.is_removed(row) and any(names)
    if sidecar is not None and content_bytes != sidecar.content_bytes:
        yield f"{table.path}: has {content_bytes} bytes of text, the sidecar counts {sidecar.content_bytes}"
    if named:
        yield f"{table.path}: {named} removed documents are still named"
