"""Documents to a shard: each ends in end-of-text, nothing is lost, nothing done twice, nothing mixed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacode.data.documents import Document, read_documents, write_documents
from megacode.data.errors import DataError
from megacode.data.indexed import ShardReader, bin_path
from megacode.data.sidecar import open_shard, read_sidecar, sidecar_path
from megacode.data.tokenize import tokenize
from megacode.data.tokenizer import Tokenizer, train_bpe


@pytest.fixture
def prepared(tmp_path: Path, sources: list[str]) -> Path:
    """Ten documents: nine modules and one that is empty."""
    texts = [*sources, ""]
    path = tmp_path / "in" / "train.jsonl.zst"
    write_documents(path, [Document(str(n), f"{n}.py", "python", text) for n, text in enumerate(texts)])
    return path


def test_shard_holds_the_documents(prepared: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    report = tokenize(prepared, tokenizer, tmp_path / "out" / "a.b")
    reader = open_shard(tmp_path / "out" / "a.b", tokenizer)
    for number, document in enumerate(read_documents(prepared)):
        tokens = reader.document(number).tolist()
        assert tokens == [*tokenizer.encode(document.content), tokenizer.end_of_text]
        assert tokenizer.decode(tokens[:-1]) == document.content
    assert (report.documents, report.tokens, report.reused) == (10, reader.tokens, False)
    assert report.content_bytes == sum(len(one.content.encode()) for one in read_documents(prepared))
    assert report.bytes_per_token == report.content_bytes / report.tokens
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.b.bin", "a.b.idx", "a.b.json"]


def test_reused_only_when_everything_matches(
    prepared: Path, tokenizer: Tokenizer, tmp_path: Path, sources: list[str]
) -> None:
    prefix = tmp_path / "shard"
    first = tokenize(prepared, tokenizer, prefix)
    assert tokenize(prepared, tokenizer, prefix).reused
    bin_path(prefix).write_bytes(b"")
    again = tokenize(prepared, tokenizer, prefix)
    assert not again.reused and again == first
    other = train_bpe(sources[:1], 600, "starcoder2")
    assert not tokenize(prepared, other, prefix).reused
    write_documents(prepared, [Document("1", "1.py", "python", "a")])
    assert not tokenize(prepared, other, prefix).reused
    assert read_sidecar(prefix).documents == ShardReader(prefix).documents == 1


def test_another_tokenizer_is_refused(prepared: Path, tokenizer: Tokenizer, tmp_path: Path, sources: list[str]) -> None:
    tokenize(prepared, tokenizer, tmp_path / "shard")
    with pytest.raises(DataError, match=r"shard: made with tokenizer .* use that tokenizer or tokenize again"):
        open_shard(tmp_path / "shard", train_bpe(sources[:1], 600, "starcoder2"))
    sidecar_path(tmp_path / "shard").write_text("{}")
    with pytest.raises(DataError, match=r"shard\.json: not a sidecar"):
        open_shard(tmp_path / "shard", tokenizer)
    sidecar_path(tmp_path / "shard").unlink()
    with pytest.raises(DataError, match=r"shard\.json: missing"):
        open_shard(tmp_path / "shard", tokenizer)


def test_unreadable_documents(prepared: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file; prepare the data first"):
        tokenize(tmp_path / "nowhere", tokenizer, tmp_path / "shard")
    raw = prepared.read_bytes()
    for damaged in (raw[: len(raw) // 2], b"", b"no zstandard"):
        prepared.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.jsonl\.zst: damaged compressed file"):
            tokenize(prepared, tokenizer, tmp_path / "shard")
    write_documents(prepared, [])
    with pytest.raises(DataError, match="holds no documents"):
        tokenize(prepared, tokenizer, tmp_path / "shard")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("shard")]
