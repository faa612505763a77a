"""Preparing as a whole: counts, any order and any format of input, the same work not done twice, bad input refused."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megacode.data.documents import read_documents
from megacode.data.errors import DataError
from megacode.data.prepare import PrepareOptions, prepare, render_report


def code(seed: int, count: int = 200) -> str:
    rows = [f"w{number}" for number in random.Random(seed).choices(range(10**6), k=count)]
    return "\n".join(" ".join(rows[n : n + 8]) for n in range(0, count, 8)) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small repository with something for every step."""
    root = tmp_path / "code"
    files = {f"pkg/m{n}.py": code(n).encode() for n in range(8)}
    files["pkg/copy.py"] = files["pkg/m0.py"]
    files["pkg/edited.py"] = code(1).encode() + b"more\n"
    files |= {
        "empty.py": b"",
        "latin.py": b"# caf\xe9\n",
        "nul.c": b"int\0",
        "long.js": b"x" * 1001,
        "go/main.go": b"package main\n",
    }
    files |= {
        "LICENSE": b"text",
        "logo.png": b"\x89PNG",
        ".hidden.py": b"x = 1\n",
        ".git/a.py": b"x",
        "venv/a.py": b"x",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_prepare_a_folder(folder: Path, tmp_path: Path) -> None:
    report = prepare(PrepareOptions(folder, tmp_path / "out"))
    steps = {step.step: (step.documents_in, step.kept, step.dropped) for step in report.steps}
    assert steps == {
        "collect": (17, 13, 4),
        "filters": (13, 11, 2),
        "exact duplicates": (11, 10, 1),
        "near duplicates": (10, 9, 1),
    }
    reasons = {reason.reason: reason.samples for step in report.steps for reason in step.reasons}
    assert reasons == {
        "not known as source code": ("LICENSE", "logo.png"),
        "binary (NUL bytes)": ("nul.c",),
        "not UTF-8": ("latin.py",),
        "empty": ("empty.py",),
        "a line over 1000 characters": ("long.js",),
        "same content as another document": ("pkg/m0.py",),
        "at least 0.7 like another document": ("pkg/m1.py (like pkg/edited.py)",),
    }
    train, validation = (
        list(read_documents(tmp_path / "out" / f"{name}.jsonl.zst")) for name in ("train", "validation")
    )
    assert (len(train), len(validation)) == (report.train.documents, report.validation.documents)
    assert len(validation) >= 1 and len(train) + len(validation) == 9
    main = next(one for one in [*train, *validation] if one.path == "go/main.go")
    assert (main.language, main.content, len(main.id)) == ("go", "package main\n", 16)
    assert report.steps[-1].bytes_kept == report.train.content_bytes + report.validation.content_bytes
    text = "\n".join(render_report(report))
    assert "near duplicates" in text and "go" not in text.splitlines()[0] and "not UTF-8: latin.py" in text


def test_a_second_run_reuses_the_first(folder: Path, tmp_path: Path) -> None:
    options = PrepareOptions(folder, tmp_path / "out")
    first = prepare(options)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = prepare(options)
    assert second.reused and not first.reused
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == written
    assert (second.steps, second.train, second.options) == (first.steps, first.train, first.options)
    assert "nothing was done" in render_report(second)[-1]
    assert not prepare(PrepareOptions(folder, tmp_path / "out", validation_share=0.5)).reused
    assert not prepare(options).reused
    (tmp_path / "out" / "train.jsonl.zst").write_bytes(b"damaged")
    assert not prepare(options).reused and prepare(options).reused
    (folder / "pkg" / "m3.py").write_text(code(77))
    assert not prepare(options).reused
    (tmp_path / "out" / "manifest.json").write_text("[]")
    assert not prepare(options).reused


def test_result_inside_the_source_is_not_read_back(folder: Path) -> None:
    options = PrepareOptions(folder, folder / "out")
    assert not prepare(options).reused and prepare(options).reused


def test_limit_takes_the_first_files(folder: Path, tmp_path: Path) -> None:
    report = prepare(PrepareOptions(folder, tmp_path / "out", limit_files=10))
    assert report.steps[0].kept + 2 == 10  # latin.py and nul.c are read and dropped


def rows_of(folder: Path) -> list[dict]:
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
        prepare(PrepareOptions(source, tmp_path / f"out-{kind}"))
        results.append([(tmp_path / f"out-{kind}" / f"{n}.jsonl.zst").read_bytes() for n in ("train", "validation")])
    assert all(result == results[0] for result in results)
    found = {one.path for one in read_documents(tmp_path / "out-two" / "train.jsonl.zst")}
    assert found < {row["path"] for row in rows}


def test_rows_keep_their_columns_and_bad_ones_are_counted(tmp_path: Path) -> None:
    rows = [
        {"id": "one", "language": "Rust", "path": "a.weird", "content": "fn main() {}"},
        {"content": "let a = 1"},
        {"content": "half a pair \ud800"},
        {"path": "n.py", "content": "a\0"},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    report = prepare(PrepareOptions(tmp_path / "x.jsonl", tmp_path / "out"))
    every = [one for n in ("train", "validation") for one in read_documents(tmp_path / "out" / f"{n}.jsonl.zst")]
    by_id = {one.id: (one.language, one.path) for one in every}
    assert by_id.pop("one") == ("rust", "a.weird")
    ((identity, rest),) = by_id.items()
    assert rest == ("unknown", identity)
    assert {reason.reason for reason in report.steps[0].reasons} == {"not UTF-8", "binary (NUL bytes)"}


def test_bad_input(tmp_path: Path) -> None:
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            prepare(PrepareOptions(tmp_path / name, tmp_path / "out"))

    refused(
        "a.jsonl",
        b'{"content": "a"}\n{"text": 1}\n',
        r"a\.jsonl, line 2: each row needs a text column `content`; found text",
    )
    refused("b.jsonl", b'{"content": "a"}\n{"content"\n', r"b\.jsonl, line 2: not JSON")
    refused("c.jsonl.gz", gzip.compress(b'{"content": "a"}\n' * 99)[:-9], r"c\.jsonl\.gz: damaged compressed file")
    refused(
        "d.jsonl.zst", zstandard.compress(b'{"content": "a"}\n' * 99)[:-3], r"d\.jsonl\.zst: damaged compressed file"
    )
    refused("e.parquet", b"PAR1", r"e\.parquet: damaged parquet file")
    refused("f.txt", b"a", r"f\.txt: must be a folder of code or a file ending in \.jsonl")
    refused("g.jsonl", b"", "need at least 2 documents; 0 left")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "h.parquet")
    with pytest.raises(DataError, match=r"h\.parquet: needs a text column `content`; has text"):
        prepare(PrepareOptions(tmp_path / "h.parquet", tmp_path / "out"))
    (tmp_path / "none").mkdir()
    for place, message in (("none", "no source code here"), ("nowhere", "no such file or folder")):
        with pytest.raises(DataError, match=message):
            prepare(PrepareOptions(tmp_path / place, tmp_path / "out"))
    with pytest.raises(DataError, match=r"validation_share must be in \[0, 1\); found 1"):
        PrepareOptions(tmp_path, tmp_path, validation_share=1)
