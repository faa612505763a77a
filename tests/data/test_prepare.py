"""Preparing as a whole: counts, any order, cut and format of input, work not done twice, bad input refused."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from corpus import code, many_files, result_of, write_files

from megacode.data.documents import Document, read_documents
from megacode.data.errors import DataError
from megacode.data.prepare import PrepareOptions, options_from, options_of, plan, prepare, render_report
from megacode.data.prepare.options import Deduplicate, Executor, Limits


def documents_in(out: Path, *sides: str) -> list[Document]:
    folders = [out / side for side in sides or ("train", "validation")]
    return [one for folder in folders for path in sorted(folder.iterdir()) for one in read_documents(path)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small repository with something for every step."""
    files: dict[str, bytes | str] = {f"pkg/m{n}.py": code(n) for n in range(8)}
    files |= {
        "pkg/copy.py": files["pkg/m0.py"],
        "pkg/edited.py": code(1) + "more\n",
        "empty.py": b"",
        "latin.py": b"# caf\xe9\n",
        "nul.c": b"int\0",
        "long.js": b"x" * 1001,
        "go/main.go": b"package main\n",
        "LICENSE": b"text",
        "logo.png": b"\x89PNG",
        "large.py": b"x = 1\n" * 2_000_000,
        ".hidden.py": b"x = 1\n",
        ".git/a.py": b"x",
        "venv/a.py": b"x",
    }
    return write_files(tmp_path / "code", files)


def test_prepare_a_folder(folder: Path, tmp_path: Path) -> None:
    report = prepare(options_of(folder, tmp_path / "out"))
    steps = {step.step: (step.documents_in, step.kept, step.dropped) for step in report.steps}
    assert steps == {
        "collect": (18, 13, 5),
        "filters": (13, 11, 2),
        "exact duplicates": (11, 10, 1),
        "near duplicates": (10, 9, 1),
        "redaction": (9, 9, 0),
    }
    reasons = {reason.reason: reason.samples for step in report.steps for reason in step.reasons}
    assert reasons == {
        "not known as source code": ("LICENSE", "logo.png"),
        "binary (NUL bytes)": ("nul.c",),
        "not UTF-8": ("latin.py",),
        "a file over 10,000,000 bytes": ("large.py",),
        "empty": ("empty.py",),
        "a line over 1000 characters": ("long.js",),
        "same content as another document": ("pkg/m0.py",),
        "at least 0.7 like another document": ("pkg/m1.py (like pkg/edited.py)",),
    }
    train, validation = (documents_in(tmp_path / "out", side) for side in ("train", "validation"))
    assert (len(train), len(validation)) == (report.train.documents, report.validation.documents)
    assert len(validation) >= 1 and len(train) + len(validation) == 9
    main = next(one for one in [*train, *validation] if one.path == "go/main.go")
    assert (main.language, main.content, len(main.id)) == ("go", "package main\n", 16)
    assert report.steps[-1].bytes_kept == report.train.content_bytes + report.validation.content_bytes
    text = "\n".join(render_report(report))
    assert "near duplicates" in text and "go" not in text.splitlines()[0] and "not UTF-8: latin.py" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "train", "validation"]


def test_a_second_run_reuses_the_first(folder: Path, tmp_path: Path) -> None:
    options = options_of(folder, tmp_path / "out")
    first = prepare(options)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    second = prepare(replace(options, executor=Executor(tasks=3)))
    assert second.reused and not first.reused
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == written
    assert replace(second, reused=False) == first
    assert "nothing was done" in render_report(second)[-1]
    assert not prepare(replace(options, validation_share=0.5)).reused
    assert not prepare(options).reused
    (tmp_path / "out" / "train" / "00000.jsonl.zst").write_bytes(b"damaged")
    assert not prepare(options).reused and prepare(options).reused
    (folder / "pkg" / "m3.py").write_text(code(77))
    assert not prepare(options).reused
    (tmp_path / "out" / "manifest.json").write_text("[]")
    assert not prepare(options).reused


def test_result_inside_the_source_is_not_read_back(folder: Path) -> None:
    options = options_of(folder, folder / "out")
    assert not prepare(options).reused and prepare(options).reused


def test_limit_takes_the_first_files(folder: Path, tmp_path: Path) -> None:
    report = prepare(options_of(folder, tmp_path / "out", limits=Limits(files=10)))
    assert report.steps[0].documents_in == 10


def rows_of(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("pkg/*.py"))
    return [{"content": file.read_text(), "path": f"pkg/{file.name}", "stars": 3} for file in files]


def test_tables_equal_the_folder(folder: Path, tmp_path: Path) -> None:
    """Rows in any order, in .jsonl, .gz, .zst (two frames) or .parquet, or cut into two files, give the same bytes."""
    rows = rows_of(folder)
    results = []
    for kind in ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "two"):
        random.Random(kind).shuffle(rows)
        place = tmp_path / kind
        place.mkdir()
        halves = ["".join(json.dumps(row) + "\n" for row in half).encode() for half in (rows[:4], rows[4:])]
        if kind == "two":
            (place / "a.jsonl").write_bytes(halves[0])
            (place / "b.jsonl.gz").write_bytes(gzip.compress(halves[1]))
        elif kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "x.parquet")
        else:
            pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[kind]
            (place / f"x.{kind}").write_bytes(b"".join(map(pack, halves)))
        source = place if kind == "two" else next(place.iterdir())
        prepare(options_of(source, tmp_path / f"out-{kind}"))
        results.append({name: data for name, data in result_of(tmp_path / f"out-{kind}").items() if "/" in name})
    assert all(result == results[0] for result in results)
    found = documents_in(tmp_path / "out-two", "train")
    assert {one.path for one in found} < {row["path"] for row in rows} and {one.stars for one in found} == {3}


def test_the_stacks_columns(tmp_path: Path) -> None:
    """Both versions of The Stack name their columns otherwise; the documents are the same."""
    v1 = {"hexsha": "one", "max_stars_repo_path": "a.weird", "max_stars_repo_name": "me/it", "lang": "Rust"}
    v1 |= {"max_stars_repo_licenses": ["MIT"], "max_stars_count": 7, "content": "fn main() {}"}
    v2 = {"blob_id": "one", "path": "a.weird", "repo_name": "me/it", "language": "Rust", "detected_licenses": ["MIT"]}
    v2 |= {"star_events_count": 7, "content": "fn main() {}"}
    for name, row in (("v1", v1), ("v2", v2)):
        place = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "content": "let b = 2;"}]), place)
        prepare(options_of(place, tmp_path / name))
        found = next(one for one in documents_in(tmp_path / name) if one.content == "fn main() {}")
        assert found == Document("one", "a.weird", "rust", "fn main() {}", "me/it", ("MIT",), 7)


def test_rows_without_columns_and_without_text_are_counted(tmp_path: Path) -> None:
    rows = [
        {"content": "let a = 1"},
        {"content": "x = 2"},
        {"content": "half \ud800"},
        {"path": "n.py", "content": "a\0"},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    report = prepare(options_of(tmp_path / "x.jsonl", tmp_path / "out"))
    assert all((one.language, one.path) == ("unknown", one.id) for one in documents_in(tmp_path / "out"))
    assert {reason.reason for reason in report.steps[0].reasons} == {"not UTF-8", "binary (NUL bytes)"}


def test_bad_input(tmp_path: Path) -> None:
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            prepare(options_of(tmp_path / name, tmp_path / "out"))

    row = b'{"content": "a"}\n'
    refused("a.jsonl", row + b'{"text": 1}\n', r"/a\.jsonl, line 2: each row needs a text column `content`; found text")
    refused("b.jsonl", row + b'{"content"\n', r"/b\.jsonl, line 2: not JSON")
    refused("c.jsonl.gz", gzip.compress(row * 99)[:-9], r"/c\.jsonl\.gz: damaged compressed file")
    refused("d.jsonl.zst", zstandard.compress(row * 99)[:-3], r"/d\.jsonl\.zst: damaged compressed file")
    refused("e.parquet", b"PAR1", r"/e\.parquet: damaged parquet file")
    refused("f.txt", b"a", r"f\.txt: must be a folder of code or a file ending in \.jsonl")
    refused("g.jsonl", b"", "need at least 2 documents of different content or repository; 0 left")
    refused("h.jsonl", row, "need at least 2 documents of different content or repository; 1 left")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "h.parquet")
    with pytest.raises(DataError, match=r"h\.parquet: needs a text column `content`; has text"):
        prepare(options_of(tmp_path / "h.parquet", tmp_path / "out"))
    (tmp_path / "none").mkdir()
    for place, message in (("none", "no files here"), ("nowhere", "no such file or folder")):
        with pytest.raises(DataError, match=message):
            prepare(options_of(tmp_path / place, tmp_path / "out"))
    with pytest.raises(DataError, match=r"validation_share must be in \[0, 1\); found 1"):
        options_of(tmp_path, tmp_path, validation_share=1)


def test_an_error_leaves_the_old_result_and_the_next_start_goes_on(folder: Path, tmp_path: Path) -> None:
    good = options_of(folder, tmp_path / "out")
    prepare(good)
    before = result_of(tmp_path / "out")
    write_files(tmp_path, {"bad/x.jsonl": b'{"content": "a = 1"}\n{'})
    bad = options_of(tmp_path / "bad", tmp_path / "out")
    with pytest.raises(DataError, match="line 2: not JSON"):
        prepare(bad)
    assert {name: data for name, data in result_of(tmp_path / "out").items() if "work/" not in name} == before
    assert prepare(good).reused


def test_foreign_files_in_the_place_of_the_result_are_not_removed(folder: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "out" / "train", {"thesis.tex": "mine"})
    with pytest.raises(DataError, match=r"train: holds thesis\.tex, which no preparation wrote"):
        prepare(options_of(folder, tmp_path / "out"))
    assert (tmp_path / "out" / "train" / "thesis.tex").read_text() == "mine"


def test_two_at_once_in_one_folder_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megacode.data.prepare.executors import local

    options = options_of(folder, tmp_path / "out")
    met: list[str] = []

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.undo()
        with pytest.raises(DataError, match="another preparation is writing here"):
            prepare(options)
        met.append("refused")
        local.run_local(*arguments)

    monkeypatch.setattr(local, "run_local", meanwhile)
    assert not prepare(options).reused and met == ["refused"]


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little input in several buckets, and the keys of a band in several parts."""
    monkeypatch.setattr(plan, "BUCKET_BYTES", 10_000)
    monkeypatch.setattr(plan, "PART_BUCKETS", 4)


def shuffled_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def listed(folder: Path) -> Iterator[Path]:
        names = list(real(folder))
        random.Random(str(folder)).shuffle(names)
        return iter(names)

    monkeypatch.setattr(Path, "iterdir", listed)


HOW: dict[str, Executor] = {
    "one task": Executor(tasks=1, workers=1),
    "eight tasks": Executor(tasks=8, workers=1),
    "any order": Executor(tasks=3, workers=1),
}


@pytest.mark.usefixtures("small_buckets")
def test_tasks_and_order_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = many_files(tmp_path / "code")
    results = {}
    for name, executor in HOW.items():
        with monkeypatch.context() as patch:
            if name == "any order":
                shuffled_listing(patch)
            prepare(options_of(source, tmp_path / name, executor=executor))
        results[name] = result_of(tmp_path / name)
    first = results["one task"]
    assert len(first) > 15 and all(result == first for result in results.values())


@pytest.mark.slow
@pytest.mark.usefixtures("small_buckets")
def test_workers_change_no_byte(tmp_path: Path) -> None:
    source = many_files(tmp_path / "code")
    for workers in (1, 4):
        prepare(options_of(source, tmp_path / f"{workers}", executor=Executor(tasks=8, workers=workers)))
    assert result_of(tmp_path / "1") == result_of(tmp_path / "4")


def test_the_number_of_buckets_changes_only_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = many_files(tmp_path / "code")
    one = prepare(options_of(source, tmp_path / "one"))
    monkeypatch.setattr(plan, "BUCKET_BYTES", 10_000)
    monkeypatch.setattr(plan, "PART_BUCKETS", 3)
    many = prepare(options_of(source, tmp_path / "many"))
    assert len(one.train.files) == 1 and len(many.train.files) > 8
    assert documents_in(tmp_path / "one", "train") == documents_in(tmp_path / "many", "train")
    assert documents_in(tmp_path / "one", "validation") == documents_in(tmp_path / "many", "validation")
    assert one.steps == many.steps


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(("share", "train", "validation"), [(0.0, 59, 1), (0.999999, 1, 59)])
def test_no_side_is_empty(share: float, train: int, validation: int, tmp_path: Path) -> None:
    source = many_files(tmp_path / "code")
    report = prepare(options_of(source, tmp_path / "out", validation_share=share))
    assert (report.train.documents, report.validation.documents) == (train, validation)
    assert len(documents_in(tmp_path / "out", "train")) == train
    assert len(documents_in(tmp_path / "out", "validation")) == validation


def test_steps_can_be_left_out(tmp_path: Path) -> None:
    source = many_files(tmp_path / "code", families=6)
    table = {"sources": [{"path": str(source)}], "out": str(tmp_path / "out"), "redact": False}
    table |= {"filters": {"rules": "none"}, "deduplicate": {"exact": False, "near": False}}
    report = prepare(options_from(table))
    assert [step.step for step in report.steps] == ["collect", "exact duplicates"]
    assert report.train.documents + report.validation.documents == 6 * 3 + 2 + 3
    only_near = replace(options_from(table), deduplicate=Deduplicate(exact=False), out=tmp_path / "near")
    assert prepare(only_near).steps[-1].dropped == 2 + 3


def test_options_survive_a_plan(tmp_path: Path) -> None:
    from megacode.data.prepare.options import to_table

    options = options_of(tmp_path, tmp_path / "out", executor=Executor(sbatch={"account": "me"}), decontaminate=("a",))
    again: PrepareOptions = options_from(json.loads(json.dumps(to_table(options))))
    assert again == options
