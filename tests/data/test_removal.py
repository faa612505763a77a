"""Documents asked out are gone from the disk, stay out, and leave every other document where it was, kill by kill."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from megacode.data.document_files import sha256_of
from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.shards import document_table, removal
from megacode.data.shards.check import verify_shard
from megacode.data.shards.document_table import DocumentTable, table_path
from megacode.data.shards.indexed import ShardReader, bin_path, idx_path
from megacode.data.shards.removal import remove_documents
from megacode.data.shards.removal_list import RemovalList, load_removal_list
from megacode.data.shards.sidecar import open_shard, read_sidecar, sidecar_path
from megacode.data.shards.tokenize import tokenize
from megacode.data.shards.tombstones import read_tombstones, tombstones_path
from megacode.data.tokenizers.tokenizer import Tokenizer

DOCUMENTS = 40
SECRET = "the_secret_of_{}"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Forty documents of four repositories, each with words of its own."""
    rows = [
        Document(f"id{n}", f"src/{n}.py", "python", f"def {SECRET.format(n)}(): return {n}\n" * 9, f"Owner{n % 4}/Name")
        for n in range(DOCUMENTS)
    ]
    write_documents(tmp_path / "in.jsonl.zst", rows)
    return tmp_path / "in.jsonl.zst"


@pytest.fixture
def prefix(prepared: Path, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Their shard."""
    tokenize(prepared, tokenizer, tmp_path / "shard")
    return tmp_path / "shard"


def text_of(prefix: Path, tokenizer: Tokenizer, document: int) -> str:
    return tokenizer.decode(ShardReader(prefix).document(document).tolist())


def assert_gone(prefix: Path, tokenizer: Tokenizer, gone: list[int], before: list[np.ndarray]) -> None:
    """Only the documents `gone` are changed, and of them nothing is left but id, length, language and kind."""
    reader, table = open_shard(prefix, tokenizer), DocumentTable(prefix)
    assert reader.removed.tolist() == gone and reader.removed.dtype == np.int64
    everything = tokenizer.decode(np.fromfile(bin_path(prefix), dtype=reader.dtype).tolist())
    for number in range(DOCUMENTS):
        tokens, row = reader.document(number), table.row(number)
        assert reader.is_removed(number) == (number in gone)
        assert tokens.size == before[number].size == row.tokens and row.id == f"id{number}"
        if number in gone:
            assert (tokens == tokenizer.end_of_text).all()
            assert SECRET.format(number) + "(" not in everything
            assert (row.repository, row.path) == ("", "")
        else:
            assert np.array_equal(tokens, before[number])
            assert (row.repository, row.path) == (f"Owner{number % 4}/Name", f"src/{number}.py")
    raw = table_path(prefix).read_bytes()
    assert pq.read_metadata(table_path(prefix)).num_rows == DOCUMENTS
    assert not any(f"src/{number}.py".encode() in raw for number in gone)
    assert read_sidecar(prefix).removed == len(gone)
    assert verify_shard(prefix) == []


def documents_of(prefix: Path) -> list[np.ndarray]:
    reader = ShardReader(prefix)
    return [reader.document(number).copy() for number in range(reader.documents)]


def test_removed_documents_are_gone_and_the_others_untouched(prefix: Path, tokenizer: Tokenizer) -> None:
    before, index = documents_of(prefix), idx_path(prefix).read_bytes()
    assert_gone(prefix, tokenizer, [], before)
    told = {"who": "a@b", "when": "now", "why": "law"}
    report = remove_documents(prefix, ids=["id8", "nobody"], repositories=["OWNER3/name"], **told)
    gone = sorted([8, *range(3, DOCUMENTS, 4)])
    assert_gone(prefix, tokenizer, gone, before)
    assert idx_path(prefix).read_bytes() == index
    assert (report.documents, report.removed, report.resumed) == (11, 11, False)
    assert report.ids == tuple(f"id{number}" for number in gone)
    assert report.tokens == sum(before[number].size for number in gone)
    (request,) = read_tombstones(prefix).requests
    assert (request.who, request.when, request.why, request.documents) == ("a@b", "now", "law", 11)
    assert request.asked.repositories == {"owner3/name"}


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_table_of_several_groups_of_rows(
    prepared: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(document_table, "GROUP_ROWS", rows)
    tokenize(prepared, tokenizer, tmp_path / "groups")
    assert pq.read_metadata(table_path(tmp_path / "groups")).num_row_groups == -(-DOCUMENTS // rows)
    before = documents_of(tmp_path / "groups")
    remove_documents(tmp_path / "groups", ids=["id0", "id6", "id7", "id39"])
    assert_gone(tmp_path / "groups", tokenizer, [0, 6, 7, 39], before)
    with pytest.raises(DataError, match=r"groups\.documents\.parquet: document must be in \[0, 40\); asked for 40"):
        DocumentTable(tmp_path / "groups").row(40)


def test_removals_add_up_and_doing_one_again_changes_nothing(prefix: Path, tokenizer: Tokenizer) -> None:
    before = documents_of(prefix)
    remove_documents(prefix, paths=["src/30.py", "Owner1/Name/src/1.py"])
    assert_gone(prefix, tokenizer, [1, 30], before)
    remove_documents(prefix, RemovalList.of(ids=["id2", "id30"]), why="second")
    assert_gone(prefix, tokenizer, [1, 2, 30], before)
    files = {path: path.read_bytes() for path in prefix.parent.iterdir()}
    report = remove_documents(prefix, ids=["id2"], paths=["src/30.py"])
    assert (report.documents, report.removed) == (0, 3)
    assert files == {path: path.read_bytes() for path in prefix.parent.iterdir()}
    assert [request.documents for request in read_tombstones(prefix).requests] == [2, 1]


STEPS = (
    *(("sha256_of", call) for call in range(4)),
    *(("write_tombstones", call) for call in range(2)),
    *((name, 0) for name in ("_to_disk", "overwrite_tokens", "blank_rows", "write_sidecar")),
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "call"), STEPS)
def test_a_removal_killed_at_any_step_is_completed_by_the_next(
    prefix: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, step: str, when: str, call: int
) -> None:
    """No reader sees a document whose removal is on the disk, whenever the kill comes; the next call ends it."""
    before = documents_of(prefix)
    remove_documents(prefix, ids=["id5"])
    calls = []
    real = getattr(removal, step)

    def dying(*arguments: object) -> object:
        calls.append(step)
        last = len(calls) == call + 1
        if last and when == "before":
            raise KeyboardInterrupt
        result = real(*arguments)
        if last:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(removal, step, dying)
        remove_documents(prefix, ids=["id6"], repositories=["owner0/name"])
    tombstones = read_tombstones(prefix)
    reader = open_shard(prefix, tokenizer)
    assert reader.removed.tolist() in ([5], sorted([5, 6, *range(0, DOCUMENTS, 4)]))
    if not tombstones.finished:
        assert any("a removal was interrupted" in problem for problem in verify_shard(prefix))
    report = remove_documents(prefix, ids=["id6"], repositories=["owner0/name"])
    assert report.resumed == (not tombstones.finished)
    assert_gone(prefix, tokenizer, sorted([5, 6, *range(0, DOCUMENTS, 4)]), before)
    assert not [path for path in prefix.parent.iterdir() if "partial" in path.name]


def test_a_removal_killed_between_two_documents(
    prefix: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = documents_of(prefix)
    real = removal.overwrite_tokens

    def dying(reader: ShardReader, documents: tuple[int, ...], end_of_text: int) -> None:
        real(reader, documents[:1], end_of_text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(removal, "overwrite_tokens", dying)
        remove_documents(prefix, ids=["id3", "id9"])
    assert SECRET.format(3) not in text_of(prefix, tokenizer, 3) and SECRET.format(9) in text_of(prefix, tokenizer, 9)
    remove_documents(prefix)
    assert_gone(prefix, tokenizer, [3, 9], before)


def test_an_empty_list_completes_a_removal(prefix: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = documents_of(prefix)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(removal, "overwrite_tokens", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        remove_documents(prefix, ids=["id9"])
    assert SECRET.format(9) in text_of(prefix, tokenizer, 9), "not gone from the disk yet"
    assert ShardReader(prefix).is_removed(9), "and yet no reader uses it"
    report = remove_documents(prefix)
    assert (report.documents, report.resumed) == (0, True)
    assert_gone(prefix, tokenizer, [9], before)


def test_tokenizing_again_does_not_bring_them_back(
    prefix: Path, prepared: Path, tokenizer: Tokenizer, sources: list[str]
) -> None:
    remove_documents(prefix, repositories=["owner1/name"], ids=["id0"])
    assert tokenize(prepared, tokenizer, prefix).reused, "the shard with its tombstones is still these documents'"
    assert ShardReader(prefix).removed.size == 11
    for options in ({"source": "again"}, {"by_language": True}, {"most_tokens": 900}, {}):
        report = tokenize(prepared, tokenizer, prefix, **options)  # type: ignore[arg-type]
        assert not report.reused and report.documents == DOCUMENTS - 11
        for shard in report.shards:
            assert ShardReader(shard).removed.size == 0 and verify_shard(shard) == []
            table = DocumentTable(shard)
            rows = [table.row(number) for number in range(table.documents)]
            assert not any(row.repository == "Owner1/Name" or row.id == "id0" for row in rows)


def test_a_damaged_shard_is_not_blessed(prefix: Path, tokenizer: Tokenizer) -> None:
    raw = bytearray(bin_path(prefix).read_bytes())
    raw[-4] ^= 1
    bin_path(prefix).write_bytes(raw)
    with pytest.raises(DataError, match=r"shard\.bin: its sha256 is not the one in shard\.json"):
        remove_documents(prefix, ids=["id1"])
    assert bin_path(prefix).read_bytes() == raw and not tombstones_path(prefix).exists()


@pytest.mark.parametrize("victim", ["bin", "idx", "json", "documents.parquet"])
def test_nothing_is_removed_from_half_a_shard(prefix: Path, victim: str) -> None:
    prefix.with_name(f"shard.{victim}").unlink()
    with pytest.raises(DataError, match=rf"shard\.{victim}: missing"):
        remove_documents(prefix, ids=["id1"])
    assert not tombstones_path(prefix).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"documents": [3, 2]},
        {"documents": [-1, 1]},
        {"documents": [2]},
        {"documents": ["2", "3"]},
        {"requests": [{}]},
        {"finished": 1},
        {"more": 1},
    ],
)
def test_damaged_tombstones(prefix: Path, tokenizer: Tokenizer, change: dict[str, object]) -> None:
    remove_documents(prefix, ids=["id2", "id3"])
    form = json.loads(tombstones_path(prefix).read_text())
    for text in (json.dumps({**form, **change}), "[]", "", "{}"):
        tombstones_path(prefix).write_text(text)
        for call in (lambda: ShardReader(prefix), lambda: remove_documents(prefix, ids=["id4"])):
            with pytest.raises(DataError, match=r"shard\.removed\.json: not a list of removed documents"):
                call()


def test_tombstones_lost_or_of_another_shard(prefix: Path, tokenizer: Tokenizer) -> None:
    remove_documents(prefix, ids=["id2", "id3"])
    form = json.loads(tombstones_path(prefix).read_text())
    tombstones_path(prefix).write_text(json.dumps({**form, "documents": [2, 999]}))
    with pytest.raises(DataError, match=r"shard\.removed\.json: names document 999, the shard has 40"):
        ShardReader(prefix)
    tombstones_path(prefix).unlink()
    with pytest.raises(
        DataError, match=r"shard\.removed\.json: lists 0 documents, shard\.json counts 2 removed; restore"
    ):
        open_shard(prefix, tokenizer)


def test_verify_names_what_differs(prefix: Path, tokenizer: Tokenizer) -> None:
    remove_documents(prefix, ids=["id2"])
    sound = {path: path.read_bytes() for path in prefix.parent.iterdir()}
    sidecar = read_sidecar(prefix)

    def problems(path: Path, raw: bytes | bytearray) -> str:
        for name, content in sound.items():
            name.write_bytes(content)
        path.write_bytes(raw)
        return "\n".join(verify_shard(prefix))

    reader = ShardReader(prefix)
    raw = bytearray(sound[bin_path(prefix)])
    raw[reader.start(2) * 2] = 99
    found = problems(bin_path(prefix), raw)
    assert "shard.bin: sha256 must be" in found and "1 removed documents still have tokens, the first is 2" in found
    raw = bytearray(sound[bin_path(prefix)])
    raw[-2:] = b"\xff\xff"
    found = problems(bin_path(prefix), raw)
    assert (
        "token ids must be below 1500, the highest is 65535" in found and "1 documents don't end in end-of-t" in found
    )
    raw = bytearray(sound[idx_path(prefix)])
    raw[34 + 4 * 5] ^= 1
    assert "shard.idx: damaged" in problems(idx_path(prefix), raw)
    form = json.dumps({**asdict(sidecar), "idx_sha256": "0" * 64})
    assert problems(sidecar_path(prefix), form.encode()).startswith(f"{idx_path(prefix)}: sha256 must be 000")
    form = json.dumps({**asdict(sidecar), "content_bytes": 1})
    assert "bytes of text, the sidecar counts 1" in problems(sidecar_path(prefix), form.encode())
    assert "shard.documents.parquet: not a readable parquet file" in problems(table_path(prefix), b"no table")
    other = sound[table_path(prefix)][: len(sound[table_path(prefix)]) // 2]
    assert "shard.documents.parquet: not a readable parquet file" in problems(table_path(prefix), other)
    table_path(prefix).unlink()
    assert f"{table_path(prefix)}: missing" in verify_shard(prefix)
    assert sha256_of(bin_path(prefix)) == sidecar.bin_sha256


def test_removal_lists(tmp_path: Path) -> None:
    plain = tmp_path / "list.txt"
    plain.write_text("# opt-outs\n\nOwner/Name\n  abc123  \nhttps://github.com/Some/Repo.git\nsrc/a b.py\r\n")
    listed = load_removal_list(plain)
    assert listed.names("1", "owner/name", "x.py") and listed.names("1", "SOME/repo", "")
    assert listed.names("abc123", "", "") and listed.names("1", "", "src/a b.py")
    for nobody in (("# opt-outs", "", ""), ("", "", ""), ("1", "a/b", "c")):
        assert not listed.names(*nobody)
    rows = tmp_path / "list.jsonl"
    rows.write_text('{"id": "abc"}\n\n{"repository": "o/n", "path": "o/n/x"}\n')
    assert load_removal_list(rows) == RemovalList.of(["abc"], ["O/N"], ["o/n/x"])
    for wrong in ("[]", "{}", '{"name": "x"}', '{"id": 3}', '{"id": ""}', "{"):
        rows.write_text(f'{{"id": "a"}}\n{wrong}\n')
        with pytest.raises(DataError, match=r"list\.jsonl, line 2: not an entry of a removal list"):
            load_removal_list(rows)
    plain.write_bytes(b"a\n\xff\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2"):
        load_removal_list(plain)
    with pytest.raises(DataError, match=r"nowhere: no such file"):
        load_removal_list(tmp_path / "nowhere")
