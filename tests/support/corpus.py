"""Made-up code for the tests of preparing: files that differ, copies, near copies, and repositories of them."""

from __future__ import annotations

import random
from pathlib import Path


def words(seed: int, count: int) -> list[str]:
    """Random words."""
    return [f"w{number}" for number in random.Random(seed).choices(range(10**6), k=count)]


def code(seed: int, count: int = 200) -> str:
    """Lines of eight random words, so that two seeds have no 5-gram in common."""
    rows = words(seed, count)
    return "\n".join(" ".join(rows[n : n + 8]) for n in range(0, count, 8)) + "\n"


def write_files(root: Path, files: dict[str, bytes | str]) -> Path:
    """Write files by name below `root`, which is returned."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def many_files(root: Path, families: int = 30) -> Path:
    """Files with an exact copy of every third, a near copy of every other, addresses to redact, and some of no use."""
    files: dict[str, bytes | str] = {}
    for number in range(families):
        text = code(number) + f"mail = 'person{number}@company.io'\n"
        files[f"pkg{number % 4}/m{number}.py"] = text
        if number % 3 == 0:
            files[f"copies/{number}.py"] = text
        if number % 2 == 0:
            files[f"near/{number}.py"] = text + "one more line\n"
        files[f"other/{number}.go"] = "package main\n" + code(1000 + number, 40)
        files[f"bad/{number}.js"] = "x" * (1500 + number)
    return write_files(root, files)


def result_of(out: Path) -> dict[str, bytes]:
    """The bytes of every file that a preparation leaves, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
