"""Damaged and hostile inputs: each ends in one clear error or a counted skip, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damaged
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

ROOT = Path(__file__).parents[2]
SECONDS = 20
MEMORY_BYTES = 900_000_000
ROWS = [
    {"content": f"x = {number}\n", "path": f"{number}.py"} for number in random.Random(1).choices(range(10**9), k=150)
]
SHORT_ROW = b'{"content": "a = 1"}\n'
LONG_ROW = json.dumps({"content": "a = 1\n" * 3000}).encode() + b"\n"
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
Case = tuple[Path, str, str, dict[str, Any]]


def outcomes(folder: Path, cases: list[Case]) -> list[list[Any]]:
    """What became of each case, read one after another in a process of its own; all within time and memory."""
    asked, answers = folder / "cases.json", folder / "results.json"
    asked.write_text(json.dumps([[os.fsdecode(source), *how] for source, *how in cases]))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    command = [sys.executable, damaged.__file__, str(asked), str(answers)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(answers.read_text())
    assert told["most_bytes"] < MEMORY_BYTES
    assert all(seconds < SECONDS for _, seconds in told["outcomes"])
    return [outcome for outcome, _ in told["outcomes"]]


def both(paths: list[Path], kind: str = "code", **limits: int) -> list[Case]:
    """Each path to be refused, and then to be skipped."""
    return [(path, policy, kind, limits) for path in paths for policy in ("fail", "skip")]


def parquet_bytes(rows: list[dict[str, Any]], folder: Path) -> bytes:
    path = folder / "made.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=40, write_page_checksum=True)
    return path.read_bytes()


def packed(folder: Path) -> dict[str, bytes]:
    """The same rows in every format that can be cut short."""
    checked = zstandard.ZstdCompressor(write_checksum=True)
    return {
        "jsonl.gz": gzip.compress(TEXT),
        "jsonl.zst": checked.compress(TEXT),
        "parquet": parquet_bytes(ROWS, folder),
    }


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_files_cut_short_anywhere(tmp_path: Path) -> None:
    paths = []
    for ending, data in packed(tmp_path).items():
        step = len(data) / 41
        paths += [written(tmp_path, f"{cut}.{ending}", data[: int(cut * step)]) for cut in range(41)]
    told = outcomes(tmp_path, both(paths))
    for path, refused, skipped in zip(paths, told[::2], told[1::2], strict=True):
        kind = "parquet" if path.suffix == ".parquet" else "compressed"
        assert refused[0] == "error" and f"{path}: damaged {kind} file" in refused[1], (path, refused)
        assert skipped[0] == "read" and skipped[2] == {"damaged file": 1} and skipped[1] < len(ROWS), (path, skipped)


def test_flipped_bits(tmp_path: Path) -> None:
    """With checksums in the file a changed bit is damage; a few bytes are in no checksum and may change nothing."""
    paths, draw = [], random.Random(2)
    for ending, data in packed(tmp_path).items():
        for number in range(40):
            changed = bytearray(data)
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            paths.append(written(tmp_path, f"{number}.{ending}", bytes(changed)))
    told = outcomes(tmp_path, both(paths))
    for refused, skipped in zip(told[::2], told[1::2], strict=True):
        assert skipped[0] == "read" and skipped[1] + sum(skipped[2].values()) > 0
        if refused[0] == "error":
            assert "damaged" in refused[1] or "unpacks to" in refused[1] or "needs a text column" in refused[1]
            assert skipped[2]
        else:
            assert refused[1] == skipped[1] == len(ROWS)
    assert sum(refused[0] == "error" for refused in told[::2]) >= 90


BAD_LINES = [
    b"{", b"}", b"[", b'"', b"{]", b"nul", b"'a'", b"{'content': 1}", b'{"content"}', b'{"content": "a"', b"\xff\xfe",
    b'{"content": "\xff"}', b'{"content": "a"} x', b"\0", b"1e", b"--1", b"{" * 100_000, b"[" * 99_999,
    b"1" * 5000, b'{"a":' * 50_000, b'{"content": "a\x01"}', b'{"content": "\\x"}',
]  # fmt: skip
WRONG_ROWS = [
    None, True, 1, 1.5, "text", [], ["content"], {}, {"text": "a"}, {"content": None}, {"content": 1}, {"content": 1.5},
    {"content": True}, {"content": []}, {"content": ["a"]}, {"content": {}}, {"Content": "a"},
    {"content": {"content": "a"}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (BAD_LINES, "not JSON"),
        ([json.dumps(row).encode() for row in WRONG_ROWS], "a row without a text column `content`"),
    ],
    ids=["lines", "rows"],
)
def test_bad_lines(tmp_path: Path, lines: list[bytes], reason: str) -> None:
    good = b'{"content": "a = 1"}\n'
    paths = [written(tmp_path, f"{n}.jsonl", good + line + b"\n\n" + good + line) for n, line in enumerate(lines)]
    told = outcomes(tmp_path, both(paths))
    for path, refused, skipped in zip(paths, told[::2], told[1::2], strict=True):
        assert refused[0] == "error" and f"{path}, line 2: " in refused[1] and refused[1].count("\n") == 0
        assert skipped == ["read", 2, {reason: 2}], path


def test_columns_of_other_types_count_as_missing(tmp_path: Path) -> None:
    odd = [None, True, -1, 1e300, [], {}, [None], "", "\ud800", "a\0"]
    columns = ("path", "id", "lang", "licenses", "stars", "date", "repo_name", "max_stars_count")
    rows = [{"content": "a = 1\n", column: value} for column in columns for value in odd]
    path = written(tmp_path, "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    ((said, kept, dropped),) = outcomes(tmp_path, [(path, "fail", "code", {})])
    assert said == "read" and set(dropped) <= {"not UTF-8", "binary (NUL bytes)"}
    assert kept + sum(dropped.values()) == len(rows)


def test_wrong_parquet_columns(tmp_path: Path) -> None:
    tables = [
        {"text": ["a"]}, {"content": [1]}, {"content": [1.5]}, {"content": [b"a"]}, {"content": [["a"]]},
        {"content": [{"a": "b"}]}, {"content": [None, None]}, {"content": [True]},
    ]  # fmt: skip
    paths = [tmp_path / f"{number}.parquet" for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    told = outcomes(tmp_path, both(paths))
    for path, refused, skipped in zip(paths, told[::2], told[1::2], strict=True):
        assert refused[0] == "error" and "needs a text column `content`" in refused[1] and str(path) in refused[1]
        assert skipped[:2] == ["read", 0] and skipped[2]


def zeros(size: int, byte: bytes) -> Iterator[bytes]:
    chunk = byte * (1 << 20)
    return (chunk for _ in range(size >> 20))


def zstd_of(path: Path, chunks: Iterator[bytes]) -> Path:
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        for chunk in chunks:
            out.write(chunk)
    return path


def gzip_of(path: Path, chunks: Iterator[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as out:
        for chunk in chunks:
            out.write(chunk)
    return path


@pytest.mark.slow
def test_lines_of_a_gigabyte_and_bombs(tmp_path: Path) -> None:
    gigabyte = 1 << 30
    line = tmp_path / "line.jsonl"
    with line.open("wb") as file:
        file.truncate(gigabyte)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + SHORT_ROW)
    long_lines = [
        line,
        zstd_of(tmp_path / "l.jsonl.zst", zeros(gigabyte, b"a")),
        gzip_of(tmp_path / "l.jsonl.gz", zeros(gigabyte, b"b")),
    ]
    bombs = [
        zstd_of(tmp_path / "empty.jsonl.zst", zeros(gigabyte, b"\n")),
        gzip_of(tmp_path / "empty.jsonl.gz", zeros(gigabyte, b"\n")),
        zstd_of(tmp_path / "rows.jsonl.zst", (LONG_ROW * 100 for _ in range(100))),
    ]
    cases = [(path, "fail", "code", {"most_unpacked_ratio": 10**9}) for path in long_lines]
    told = outcomes(tmp_path, [*cases, (line, "skip", "code", {}), *both(bombs)])
    for refused in told[:3]:
        assert "line 1: longer than limits.most_line_bytes = 100,000,000" in refused[1]
    assert told[3] == ["read", 1, {"a line over limits.most_line_bytes": 1}]  # the row behind the line
    for refused, skipped in zip(told[4::2], told[5::2], strict=True):
        assert "unpacks to more than 200 times" in refused[1] and "limits.most_unpacked_ratio" in refused[1]
        assert skipped[2] == {"damaged file": 1}


def test_a_parquet_bomb(tmp_path: Path) -> None:
    """One text of 9 MB, stored once and named 100 times, and a column that packs 2,000 times."""
    text = pyarrow.array(["z" * 9_000_000])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100, pyarrow.int32()), text)
    pyarrow.parquet.write_table(pyarrow.table({"content": column}), tmp_path / "dictionary.parquet")
    plain = pyarrow.table({"content": ["y" * 9_000_000 + str(n) for n in range(20)]})
    pyarrow.parquet.write_table(plain, tmp_path / "plain.parquet", compression="zstd", use_dictionary=False)
    cases: list[Case] = [(tmp_path / "dictionary.parquet", "fail", "code", {"most_file_bytes": 10_000_000})]
    cases += both([tmp_path / "plain.parquet"])
    told = outcomes(tmp_path, cases)
    assert told[0][:2] == ["read", 100]
    assert "decompression bomb" in told[1][1] and told[2] == ["read", 0, {"damaged file": 1}]


def a_loop(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "up").symlink_to(root / "a")
    (root / "self").symlink_to(root / "self")


def a_fifo(root: Path) -> None:
    os.mkfifo(root / "wait.py")


def a_socket(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)  # a socket's path may have 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind("talk.py")
    finally:
        os.chdir(here)


def a_device(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a device needs root")
    os.mknod(root / "zero.py", 0o20644, os.makedev(1, 5))


def a_dangling_link(root: Path) -> None:
    (root / "gone.py").symlink_to("nowhere.py")


def an_odd_name(root: Path) -> None:
    (root / os.fsdecode(b"\xff\xfe caf\xe9.py")).write_text("b = 1\n")
    (root / "new\nline.py").write_text("c = 1\n")


def empty_files(root: Path) -> None:
    (root / "empty.py").write_bytes(b"")
    (root / "folder.py").mkdir()


def a_deep_folder(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)
    try:
        for _ in range(100):  # over the system's longest path
            Path("d" * 60).mkdir()
            os.chdir("d" * 60)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "reasons", "kept"),
    [
        (a_loop, {"symbolic link": 2}, 1),
        (a_fifo, {"no regular file (FIFO, socket or device)": 1}, 1),
        (a_socket, {"no regular file (FIFO, socket or device)": 1}, 1),
        (a_device, {"no regular file (FIFO, socket or device)": 1}, 1),
        (a_dangling_link, {"symbolic link": 1}, 1),
        (an_odd_name, {}, 3),
        (empty_files, {"empty": 1}, 2),
    ],
)
def test_odd_folders(make: Callable[[Path], None], reasons: dict[str, int], kept: int, tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    (root / "a.py").write_text("a = 1\n")
    make(root)
    told = outcomes(tmp_path, both([root]))
    assert told == [["read", kept, reasons]] * 2


def test_a_path_too_long_for_the_system(tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    (root / "a.py").write_text("a = 1\n")
    a_deep_folder(root)
    refused, skipped = outcomes(tmp_path, both([root]))
    assert "cannot be read" in refused[1] and skipped == ["read", 1, {"cannot be read": 1}]


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called `secret` cannot be opened or listed, as for a user without the right; tests may run as root."""
    real_open, real_iterdir = os.open, Path.iterdir

    def opened(path: Any, *how: Any, **more: Any) -> int:
        if Path(path).name.startswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *how, **more)

    def listed(folder: Path) -> Iterator[Path]:
        if folder.name == "secrets":
            raise PermissionError(13, "Permission denied", str(folder))
        return real_iterdir(folder)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(Path, "iterdir", listed)


@pytest.mark.parametrize("name", ["secret.py", "secrets/a.py", "secret.jsonl"])
@pytest.mark.usefixtures("forbidden")
def test_unreadable_files_and_folders(name: str, tmp_path: Path) -> None:
    root = tmp_path / "code"
    other = root / ("b.jsonl" if name.endswith("jsonl") else "b.py")
    (root / name).parent.mkdir(parents=True)
    other.write_bytes(SHORT_ROW)
    (root / name).write_bytes(SHORT_ROW)
    refused = damaged.read(str(root), "fail", "code", {}, tmp_path / "fail")
    assert refused[0] == "error" and "secret" in refused[1] and "Permission denied" in refused[1]
    said, kept, dropped = damaged.read(str(root), "skip", "code", {}, tmp_path / "skip")
    assert (said, kept, sum(dropped.values())) == ("read", 1, 1)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_what_vanishes_between_listing_and_reading(whole_folder: bool, tmp_path: Path) -> None:
    root = tmp_path / "code"
    (root / "sub").mkdir(parents=True)
    for name in ("a.py", "sub/b.py", "sub/c.py"):
        (root / name).write_text("a = 1\n")

    def lost() -> None:
        for path in list((root / "sub").iterdir()) if whole_folder else [root / "sub" / "b.py"]:
            path.unlink()

    said, kept, dropped = damaged.read(str(root), "skip", "code", {}, tmp_path / "skip", lost)
    assert (said, kept, dropped) == ("read", 1 if whole_folder else 2, {"cannot be read": 2 if whole_folder else 1})
    for name in ("b.py", "c.py"):
        (root / "sub" / name).write_text("a = 1\n")
    refused = damaged.read(str(root), "fail", "code", {}, tmp_path / "fail", lost)
    assert refused[0] == "error" and "sub/b.py: cannot be opened (No such file or directory)" in refused[1]


def test_a_source_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    refused = damaged.read(str(tmp_path / "x.jsonl"), "fail", "code", {}, tmp_path / "out")
    assert refused[0] == "error" and "no such file or folder" in refused[1]
