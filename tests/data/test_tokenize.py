"""Documents to a shard: each ends in end-of-text, nothing is lost, nothing done twice, nothing mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from megacode.data.document_files import sha256_of
from megacode.data.documents import Document, read_documents, write_documents
from megacode.data.errors import DataError
from megacode.data.shards import encoding, shard_set
from megacode.data.shards.check import verify_shard
from megacode.data.shards.document_table import DocumentTable, table_path
from megacode.data.shards.indexed import ShardReader, bin_path, idx_path
from megacode.data.shards.names import shard_prefixes
from megacode.data.shards.removal_list import RemovalList
from megacode.data.shards.shard_set import set_path
from megacode.data.shards.sidecar import open_shard, read_sidecar, sidecar_path
from megacode.data.shards.tokenize import LOSSY, REMOVED, tokenize
from megacode.data.tokenizers.tokenizer import Tokenizer, train_bpe
from megacode.prove.data_bench.tokenization import tokenize_rates

LANGUAGES = ("python", "c#", "objective c", "")
FILES = ["bin", "documents.parquet", "idx", "json", "shards.json"]


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"a.b.{ending}" for ending in FILES]


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
    with pytest.raises(DataError, match=r"empty: no \.jsonl\.zst files in this folder"):
        (tmp_path / "empty").mkdir()
        tokenize(tmp_path / "empty", tokenizer, tmp_path / "shard")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("shard")]


@pytest.fixture
def mixed(tmp_path: Path, sources: list[str]) -> Path:
    """A folder of three files, 36 documents in four languages; names that are not documents lie beside them."""
    folder = tmp_path / "mixed"
    for part in range(3):
        rows = [
            Document(
                id=f"{part}-{n}",
                path=f"src/{n}.txt",
                language=LANGUAGES[n % 4],
                content=sources[n % 9][part * 1000 : part * 1000 + 500 + n],
                repository=f"Owner{n % 3}/name",
            )
            for n in range(12)
        ]
        write_documents(folder / f"{part:05d}.jsonl.zst", rows)
    (folder / "manifest.json").write_text("{}")
    return folder


def contents(prefix: Path, tokenizer: Tokenizer) -> list[str]:
    reader = ShardReader(prefix)
    return [tokenizer.decode(reader.document(n)[:-1].tolist()) for n in range(reader.documents)]


def test_a_file_a_list_and_a_folder_are_read_in_order(mixed: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = sorted(mixed.glob("*.zst"))
    expected = [document.content for file in files for document in read_documents(file)]
    tokenize(mixed, tokenizer, tmp_path / "folder")
    tokenize(files, tokenizer, tmp_path / "list")
    assert contents(tmp_path / "folder", tokenizer) == contents(tmp_path / "list", tokenizer) == expected
    assert read_sidecar(tmp_path / "folder").input_sha256 == read_sidecar(tmp_path / "list").input_sha256
    tokenize(files[1], tokenizer, tmp_path / "file")
    assert read_sidecar(tmp_path / "file").input_sha256 == sha256_of(files[1])
    assert contents(tmp_path / "file", tokenizer) == expected[12:24]


@pytest.mark.parametrize("characters", [1, 700, 5_000, 1 << 40])
def test_chunks_change_nothing(
    mixed: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    tokenize(mixed, tokenizer, tmp_path / "a")
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", characters)
    tokenize(mixed, tokenizer, tmp_path / "b")
    for path in (bin_path, idx_path, table_path):
        assert path(tmp_path / "a").read_bytes() == path(tmp_path / "b").read_bytes()


def test_one_shard_a_language_and_no_more_than_so_many_tokens(
    mixed: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prefix = tmp_path / "out" / "train"
    report = tokenize(mixed, tokenizer, prefix, by_language=True, most_tokens=700, source="stack")
    assert list(report.shards) == shard_prefixes(f"{prefix}*"), "a pattern finds all shards and nothing else"
    names = {shard.name.rpartition("-")[0] for shard in report.shards}
    assert names == {"train-python", "train-c#", "train-objective_c", "train-unknown"}
    seen = []
    for shard in report.shards:
        reader, sidecar, table = open_shard(shard, tokenizer), read_sidecar(shard), DocumentTable(shard)
        rows = [table.row(n) for n in range(table.documents)]
        assert {row.language for row in rows} == {sidecar.language} and sidecar.source == "stack"
        assert [row.tokens for row in rows] == reader.lengths.tolist()
        assert [row.bytes for row in rows] == [len(text.encode()) for text in contents(shard, tokenizer)]
        assert sum(row.bytes for row in rows) == sidecar.content_bytes
        assert reader.tokens <= 700 or reader.documents == 1
        assert verify_shard(shard) == []
        seen += [(row.id, row.repository, row.path, row.language, row.kind) for row in rows]
    everything = [document for file in sorted(mixed.glob("*.zst")) for document in read_documents(file)]
    assert sorted(seen) == sorted((one.id, one.repository, one.path, one.language, one.kind) for one in everything)
    assert len(report.shards) > 8 and report.documents == 36
    assert tokenize(mixed, tokenizer, prefix, by_language=True, most_tokens=700, source="stack").reused


def test_shards_of_another_run_at_the_same_prefix_are_gone(mixed: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    prefix = tmp_path / "out" / "train"
    tokenize(mixed, tokenizer, prefix, by_language=True)
    tokenize(mixed, tokenizer, tmp_path / "out" / "train2")
    report = tokenize(mixed, tokenizer, prefix)
    assert report.shards == (prefix,) and read_sidecar(prefix).language == "", "languages differ"
    names = [f"{name}.{ending}" for name in ("train", "train2") for ending in FILES]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)


def test_an_interrupted_run_is_done_again(
    mixed: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each renaming in turn: afterwards the run is not taken for finished, and doing it again mends it."""
    prefix = tmp_path / "out" / "train"
    whole = tokenize(mixed, tokenizer, tmp_path / "whole", by_language=True)
    publish = shard_set._Part.publish
    for survivors in range(4):
        tokenize(mixed, tokenizer, prefix, most_tokens=900 + survivors)
        done: list[Path] = []

        def dying(part: shard_set._Part, common: object, done: list = done, survivors: int = survivors) -> None:
            if len(done) == survivors:
                raise KeyboardInterrupt
            done.append(part.prefix)
            publish(part, common)  # type: ignore[arg-type]

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shard_set._Part, "publish", dying)
            tokenize(mixed, tokenizer, prefix, by_language=True)
        report = tokenize(mixed, tokenizer, prefix, by_language=True)
        assert not report.reused and list(report.shards) == shard_prefixes(f"{prefix}*")
        assert [path.name for path in (tmp_path / "out").iterdir() if "partial" in path.name] == []
        for mine, reference in zip(report.shards, whole.shards, strict=True):
            assert bin_path(mine).read_bytes() == bin_path(reference).read_bytes()


def test_parts_become_special_tokens_and_text_never_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = (("<repo_name>", "owner/name"), ("<file_sep>", "a.py\nx = '<file_sep>'"), ("", "more"), ("<file_sep>", ""))
    write_documents(tmp_path / "in.jsonl.zst", [Document("1", "1", "python", "", parts=parts)])
    tokenize(tmp_path / "in.jsonl.zst", tokenizer, tmp_path / "shard")
    tokens = ShardReader(tmp_path / "shard").document(0).tolist()
    assert [token for token in tokens if token in tokenizer.special_ids] == [5, 6, 6, 0]
    expected = "<repo_name>owner/name<file_sep>a.py\nx = '<file_sep>'more<file_sep><|endoftext|>"
    assert tokenizer.decode(tokens) == expected


def test_a_special_token_that_the_tokenizer_lacks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    document = Document("17", "a.py", "python", "", parts=(("<gh_stars>", "5"),))
    write_documents(tmp_path / "in.jsonl.zst", [document])
    with pytest.raises(
        DataError, match=r"document 17 \(a\.py\): has the special token <gh_stars>, the tokenizer has not"
    ):
        tokenize(tmp_path / "in.jsonl.zst", tokenizer, tmp_path / "shard")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl.zst"]


def test_lone_surrogates_are_dropped_and_counted_or_replaced(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """JSON can spell half a surrogate pair, which no encoding of text can hold."""
    texts = ("good", "a\ud800b")
    rows = [json.dumps({"id": text, "path": "p", "language": "c", "content": text}) for text in texts]
    (tmp_path / "in.jsonl.zst").write_bytes(zstandard.compress("\n".join(rows).encode()))
    report = tokenize(tmp_path / "in.jsonl.zst", tokenizer, tmp_path / "a")
    assert (report.documents, report.dropped, report.lossy) == (1, {LOSSY: 1}, 1)
    report = tokenize(tmp_path / "in.jsonl.zst", tokenizer, tmp_path / "b", lossy="keep")
    assert (report.documents, report.dropped, report.lossy) == (2, {}, 1)
    assert contents(tmp_path / "b", tokenizer) == ["good", "a?b"]


def test_the_removal_list_is_kept_out(mixed: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    listed = RemovalList.of(ids=["1-4", "nobody"], repositories=["owner2/NAME"], paths=["src/0.txt"])
    report = tokenize(mixed, tokenizer, tmp_path / "a", removed=listed)
    table = DocumentTable(tmp_path / "a")
    rows = [table.row(n) for n in range(table.documents)]
    assert report.dropped == {REMOVED: 36 - report.documents} == {REMOVED: 16}
    assert not any(row.repository == "Owner2/name" or row.path == "src/0.txt" or row.id == "1-4" for row in rows)
    assert tokenize(mixed, tokenizer, tmp_path / "a", removed=listed).reused
    assert tokenize(mixed, tokenizer, tmp_path / "a").dropped == {REMOVED: 16}, "once asked out, for good"
    with pytest.raises(DataError, match=r"holds no documents to keep \(36 on the removal list\)"):
        tokenize(mixed, tokenizer, tmp_path / "b", removed=RemovalList.of(paths=[f"src/{n}.txt" for n in range(12)]))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"shards": ["../x"]}', "null", "1"])
def test_a_damaged_list_of_shards(prepared: Path, tokenizer: Tokenizer, tmp_path: Path, text: str) -> None:
    tokenize(prepared, tokenizer, tmp_path / "shard")
    set_path(tmp_path / "shard").write_text(text)
    with pytest.raises(DataError, match=r"shard\.shards\.json: not a list of shards of this program .*; delete it"):
        tokenize(prepared, tokenizer, tmp_path / "shard")


@pytest.mark.parametrize(
    ("name", "value"),
    [("documents", "9"), ("documents", -1), ("tokens", 1.5), ("removed", True), ("bin_sha256", 1), ("more", 1)],
)
def test_a_sidecar_of_another_shape(
    prepared: Path, tokenizer: Tokenizer, tmp_path: Path, name: str, value: object
) -> None:
    tokenize(prepared, tokenizer, tmp_path / "shard")
    form = json.loads(sidecar_path(tmp_path / "shard").read_text())
    for text in (json.dumps({**form, name: value}), "[]", "", "7", json.dumps([*form])):
        sidecar_path(tmp_path / "shard").write_text(text)
        with pytest.raises(DataError, match=r"shard\.json: not a sidecar of this program"):
            open_shard(tmp_path / "shard", tokenizer)


def test_a_foreign_sidecar(prepared: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenize(prepared, tokenizer, tmp_path / "a")
    write_documents(prepared, [Document("1", "1.py", "python", "a")])
    tokenize(prepared, tokenizer, tmp_path / "b")
    sidecar_path(tmp_path / "b").replace(sidecar_path(tmp_path / "a"))
    with pytest.raises(DataError, match=r"a\.json: counts 1 documents and 2 tokens, the shard has 10 and"):
        open_shard(tmp_path / "a", tokenizer)


def test_wrong_options(prepared: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lossy must be drop or keep; found 'maybe'"):
        tokenize(prepared, tokenizer, tmp_path / "a", lossy="maybe")
    with pytest.raises(DataError, match="most_tokens must be at least 0"):
        tokenize(prepared, tokenizer, tmp_path / "a", most_tokens=-1)
    same = [Document("1", "1", "c d", "a"), Document("2", "2", "c_d", "b")]
    write_documents(prepared, same)
    with pytest.raises(DataError, match=r"languages 'c d' and 'c_d' would share the shard a-c_d; rename one"):
        tokenize(prepared, tokenizer, tmp_path / "a", by_language=True)


@pytest.mark.parametrize("field", ["id", "path", "language", "repository", "kind", "content"])
def test_fields_of_another_type(tokenizer: Tokenizer, tmp_path: Path, field: str) -> None:
    form = {"id": "7", "path": "a", "language": "c", "content": "x", field: [5]}
    (tmp_path / "in.jsonl.zst").write_bytes(zstandard.compress(json.dumps(form).encode()))
    with pytest.raises(DataError, match=rf"{field} must be text|not a prepared document"):
        tokenize(tmp_path / "in.jsonl.zst", tokenizer, tmp_path / "shard")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl.zst"]


def test_the_benchmark_measures_both_on_the_same_texts(
    tokenizer: Tokenizer, tmp_path: Path, sources: list[str]
) -> None:
    texts = [source[n * 3 :] for n in range(3) for source in sources]
    rows = [Document(str(n), f"{n}.py", "python", text) for n, text in enumerate(texts)]
    write_documents(tmp_path / "in.jsonl.zst", rows)
    rates = tokenize_rates(tmp_path / "in.jsonl.zst", tokenizer, rounds=2)
    assert rates["megabytes"] == sum(len(text.encode()) for text in texts) / 1e6 and rates["tokens"] > 0
    assert 0 < rates["lowest"] <= rates["ratio"] <= rates["highest"] and min(rates["bare"], rates["ours"]) > 0
