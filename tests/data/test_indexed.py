"""Shards: what is written is read, by an independent reading of Megatron's layout too; damage is refused by name."""

from __future__ import annotations

import copy
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megacode.data.errors import DataError
from megacode.data.shards.entropy import unigram_entropy
from megacode.data.shards.indexed import HEADER, MAGIC, ShardReader, ShardWriter, bin_path, idx_path

Shard = Callable[..., ShardReader]
DOCUMENTS = [[5, 6, 7, 0], [1499, 0], [0], [*range(100, 400), 0]]


def megatron_parse(prefix: Path) -> list[list[int]]:
    """Read a shard with struct alone, from the layout's description."""
    raw, data = idx_path(prefix).read_bytes(), bin_path(prefix).read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, entries = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1 and entries == sequences + 1
    letter, width = {8: ("H", 2), 4: ("i", 4)}[code]
    lengths = struct.unpack_from(f"<{sequences}i", raw, 34)
    pointers = struct.unpack_from(f"<{sequences}q", raw, 34 + 4 * sequences)
    documents = struct.unpack_from(f"<{entries}q", raw, 34 + 12 * sequences)
    assert documents == tuple(range(entries)) and len(raw) == 34 + 12 * sequences + 8 * entries
    assert len(data) == sum(lengths) * width
    return [list(struct.unpack_from(f"<{n}{letter}", data, at)) for n, at in zip(lengths, pointers, strict=True)]


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(1500, "uint16"), (65499, "uint16"), (65500, "int32"), (200000, "int32")]
)
def test_round_trip(shard: Shard, vocab_size: int, dtype: str) -> None:
    documents = [*DOCUMENTS, [vocab_size - 1, 0]]
    reader = shard(documents, vocab_size)
    assert megatron_parse(reader.prefix) == documents
    assert [reader.document(index).tolist() for index in range(reader.documents)] == documents
    assert reader.dtype == np.dtype(dtype) and reader.document(0).dtype == np.dtype(dtype)
    assert reader.lengths.dtype == np.int32 and reader.lengths.tolist() == [len(one) for one in documents]
    assert (reader.documents, reader.tokens) == (5, sum(map(len, documents)))


def test_document_is_a_read_only_view(shard: Shard) -> None:
    with pytest.raises(ValueError, match="read-only"):
        shard(DOCUMENTS).document(0)[0] = 1


def test_no_documents(shard: Shard) -> None:
    reader = shard([])
    assert (reader.documents, reader.tokens, megatron_parse(reader.prefix)) == (0, 0, [])
    with pytest.raises(DataError, match="no tokens"):
        unigram_entropy([reader])


def test_a_failed_write_leaves_the_old_shard(shard: Shard, tmp_path: Path) -> None:
    shard(DOCUMENTS)
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "shard", 1500) as writer:
        writer.add([1, 2])
        raise RuntimeError
    assert ShardReader(tmp_path / "shard").documents == len(DOCUMENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard.bin", "shard.idx"]


@pytest.mark.parametrize("tokens", [[], [-1], [1500], [[1, 2]], [1.5]])
def test_tokens_outside_the_vocabulary(tmp_path: Path, tokens: list) -> None:
    with pytest.raises(DataError, match=r"token"), ShardWriter(tmp_path / "shard", 1500) as writer:
        writer.add(tokens)


def damage(path: Path, at: int, value: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "not a Megatron index"),
        (9, b"\x02", "version must be 1, is 2"),
        (17, b"\x06", r"dtype must be 8 \(uint16\) or 4 \(int32\), is 6"),
        (18, b"\x05", "one sequence per document; has 5 sequences and 4 documents"),
        (34 + 4 * 4, b"\x02", "damaged"),
        (34 + 12 * 4, b"\x01", "damaged"),
        (34 + 12 * 4 + 8 * 4, b"\x05", "damaged"),
    ],
)
def test_a_damaged_index_is_refused_at_opening(shard: Shard, at: int, value: bytes, message: str) -> None:
    prefix = shard(DOCUMENTS).prefix
    damage(idx_path(prefix), at, value)
    with pytest.raises(DataError, match=f"shard.idx: .*{message}"):
        ShardReader(prefix)


@pytest.mark.parametrize(
    ("at", "value", "rows"),
    [
        (34, b"\x05", [0]),
        (34 + 4, b"\xff\xff\xff\xff", [1]),
        (34 + 4 * 4 + 8, b"\x06", [0, 1]),
        (34 + 4 * 4 + 8, b"\x07", [0, 1]),
        (34 + 4 * 4 + 15, b"\x80", [0, 1]),
        (34 + 4 * 4 + 14, b"\x70", [0, 1]),
        (34 + 12 * 4 + 8, b"\x02", []),
    ],
)
def test_a_damaged_row_is_refused_where_it_is_read(shard: Shard, at: int, value: bytes, rows: list[int]) -> None:
    """Opening takes no look at it; its document and the one before do, and the whole check finds any."""
    prefix = shard(DOCUMENTS).prefix
    damage(idx_path(prefix), at, value)
    reader = ShardReader(prefix)
    for row in range(4):
        if row in rows:
            with pytest.raises(DataError, match=r"shard\.idx: damaged at document [01] "):
                reader.document(row)
        else:
            assert reader.document(row).tolist() == DOCUMENTS[row]
    with pytest.raises(DataError, match=r"shard\.idx: damaged \(lengths, pointers and document index"):
        reader.check_rows()


def test_a_length_that_moves_the_end_is_no_match_for_the_tokens(shard: Shard) -> None:
    prefix = shard(DOCUMENTS).prefix
    damage(idx_path(prefix), 34 + 4 * 3, b"\x05")
    with pytest.raises(DataError, match=r"shard\.bin: must be .* bytes to match shard\.idx"):
        ShardReader(prefix)


def test_documents_are_found_by_token(shard: Shard) -> None:
    reader = shard(DOCUMENTS)
    owners = [document for document, tokens in enumerate(DOCUMENTS) for _ in tokens]
    assert [reader.document_at(token) for token in range(reader.tokens)] == owners
    assert [reader.start(document) for document in range(4)] == [0, 4, 6, 7]
    for token in (-1, reader.tokens):
        with pytest.raises(DataError, match=r"token must be in \[0, 308\); asked for"):
            reader.document_at(token)


def test_opening_and_finding_take_no_time_whatever_the_shard_holds(tmp_path: Path) -> None:
    """An index of 200 million documents (4 GB, sparse): what is read of it does not grow with it."""
    rows, width = 200_000_000, 2
    with idx_path(tmp_path / "big").open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, 8, rows, rows + 1))
        for at, value in ((rows - 1, 1),):
            file.seek(HEADER.size + 4 * at)
            file.write(struct.pack("<i", value))
        file.seek(HEADER.size + 4 * rows + 8 * (rows - 1))
        file.write(struct.pack("<q", (rows - 1) * width))
        file.seek(HEADER.size + 12 * rows + 8 * rows)
        file.write(struct.pack("<q", rows))
    with bin_path(tmp_path / "big").open("wb") as file:
        file.truncate(rows * width)
    before = time.perf_counter()
    reader = ShardReader(tmp_path / "big")
    assert reader.tokens == rows and reader.document_at(rows - 1) == rows - 1
    assert reader.document(rows - 1).tolist() == [0]
    assert time.perf_counter() - before < 0.5


def test_a_reader_goes_to_another_process_as_a_name(shard: Shard) -> None:
    reader = shard(DOCUMENTS)
    assert reader.__reduce__() == (ShardReader, (reader.prefix,))
    assert copy.copy(reader).document(3).tolist() == DOCUMENTS[3]


def test_many_shards_are_written_side_by_side_without_holding_files(tmp_path: Path) -> None:
    writers = [ShardWriter(tmp_path / f"s{n}", 1500) for n in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(opened + 20, hard), hard))
    try:
        for n, writer in enumerate(writers):
            writer.add([n % 1500, 0])
            writer.finish()
            writer.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert megatron_parse(tmp_path / "s299") == [[299, 0]]


def test_files_cut_short_or_gone(shard: Shard) -> None:
    prefix = shard(DOCUMENTS).prefix
    index, data = idx_path(prefix).read_bytes(), bin_path(prefix).read_bytes()
    bin_path(prefix).write_bytes(data[:-2])
    with pytest.raises(
        DataError, match=rf"shard.bin: must be {len(data)} bytes to match shard.idx, is {len(data) - 2}"
    ):
        ShardReader(prefix)
    for length in (0, 20, len(index) - 1):
        idx_path(prefix).write_bytes(index[:length])
        with pytest.raises(DataError, match=r"shard\.idx: "):
            ShardReader(prefix)
    bin_path(prefix).unlink()
    with pytest.raises(DataError, match=r"shard\.bin: missing"):
        ShardReader(prefix)


def test_document_out_of_range(shard: Shard) -> None:
    with pytest.raises(DataError, match=r"must be in \[0, 4\); asked for 4"):
        shard(DOCUMENTS).document(4)


def test_entropy(shard: Shard) -> None:
    assert unigram_entropy([shard([[1, 2, 3, 0]])]) == pytest.approx(np.log(4))
    assert unigram_entropy([shard([[7, 7], [7]])]) == 0.0
    reader = shard([[1, 1, 1, 0], [900]])
    assert unigram_entropy([reader]) == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.2)))
    assert reader.token_counts(chunk_tokens=2).tolist() == reader.token_counts().tolist()
