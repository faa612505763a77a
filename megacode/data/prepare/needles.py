"""What must not be trained on, read from benchmarks' own files and from the user's lists.

`.jsonl`, `.jsonl.gz`, `.jsonl.zst` or a `.json` array, by the columns of each row:
HumanEval and its kin (`prompt`, `canonical_solution`): the docstring and the solution;
MBPP (`text` or `prompt`, `code`): both, of the test tasks 11 to 510 only;
GSM8K, DS-1000, APPS (`question` or `prompt`): it; anything else with `text`: it. `.txt`: each line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from megacode.data.compressed import lines
from megacode.data.errors import DataError

# Without white space. It exempts StarCoder's four solutions of HumanEval that everyone writes (`return x + y`,
# `return n**2`, `return len(string)`, `return ''.join(strings)`) and nine like them; their docstrings still count.
SHORTEST_OF_BENCHMARK = 24
SHORTEST_OF_LIST = 8
MBPP_TESTS = range(11, 511)
_WHITE_SPACE = b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f "
_LOWER = bytes(range(256)).lower()
_TRIPLE_QUOTED = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)


class Needle(NamedTuple):
    """A text to look for, as `stripped` gives it, and the name of the entry it is from."""

    name: str
    text: bytes


def stripped(text: str) -> bytes:
    """Return `text` in lower case without white space, in UTF-8."""
    if text.isascii():
        return text.encode("ascii").translate(_LOWER, _WHITE_SPACE)
    return "".join(text.lower().split()).encode("utf-8", "surrogatepass")


def read_needles(path: Path) -> list[Needle]:
    """Return the needles of `path` in order; trivial texts of a benchmark are left out.

    Raises DataError when the file is missing, damaged, of another form, without any text, or when a line of a list is
    so short that it would be found everywhere.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such benchmark file; give its path or leave it out")
    needles = list(_of_list(path) if path.suffix == ".txt" else _of_rows(path))
    if not needles:
        raise DataError(f"{path}: holds no text to look for; give a benchmark's file or a list with one text a line")
    return needles


def _of_list(path: Path) -> Iterator[Needle]:
    """Yield the needles of a list with one text a line; empty lines do not count."""
    for number, line in enumerate(lines(path), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 ({error}); save the list as UTF-8") from error
        if text.strip():
            yield _listed(f"{_stem(path)}:{number}", text, path, number)


def _of_rows(path: Path) -> Iterator[Needle]:
    """Yield the needles of a file of JSON objects."""
    for number, row in _rows(path):
        name, solution, code = _name(row, path, number), row.get("canonical_solution"), row.get("code")
        question = row.get("question") or row.get("prompt")
        if isinstance(solution, str) and isinstance(question, str):
            texts = [*_docstrings(question), solution]
        elif isinstance(code, str) and isinstance(row.get("text", question), str):
            task = row.get("task_id")
            if isinstance(task, int) and task not in MBPP_TESTS:
                continue
            name = f"MBPP/{task}" if isinstance(task, int) else name
            texts = [row.get("text", question), code]
        elif isinstance(question, str):
            texts = [question]
        elif isinstance(row.get("text"), str):
            yield _listed(name, row["text"], path, number)
            continue
        else:
            raise DataError(
                f"{path}, entry {number}: columns {', '.join(sorted(row)) or 'none'}; needs prompt and "
                "canonical_solution, text and code, question, prompt, or text"
            )
        needles = (Needle(name, stripped(text)) for text in texts)
        yield from (needle for needle in needles if len(needle.text) >= SHORTEST_OF_BENCHMARK)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield number and object of each row. Raises DataError for what is no object."""
    number = 1
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_bytes())
            rows = iter(found if isinstance(found, list) else [found])
        else:
            rows = (json.loads(line) for line in lines(path) if line.strip())
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise ValueError(f"must be an object, is {type(row).__name__}")
            yield number, row
    except DataError:
        raise
    except ValueError as error:
        text = f"{path}, entry {number} or the one after it: not JSON objects, one a line ({error})"
        raise DataError(f"{text}; give .jsonl, .json with a list, or a .txt list") from error


def _listed(name: str, text: str, path: Path, number: int) -> Needle:
    """Return the needle of a user's own list. Raises DataError when it would be found everywhere."""
    needle = Needle(name, stripped(text))
    if len(needle.text) < SHORTEST_OF_LIST:
        short = f"{text.strip()!r} has under {SHORTEST_OF_LIST} bytes without white space"
        raise DataError(f"{path}, line {number}: {short} and would be found everywhere; give a longer text")
    return needle


def _docstrings(prompt: str) -> list[str]:
    """Return the triple-quoted strings of `prompt` as they are spelled there, or the whole of it if it has none."""
    return [first or second for first, second in _TRIPLE_QUOTED.findall(prompt)] or [prompt]


def _name(row: Mapping[str, Any], path: Path, number: int) -> str:
    """Return what an entry is called: its own id, else its file and number."""
    for column in ("task_id", "id", "name"):
        if isinstance(row.get(column), str) and row[column]:
            return str(row[column])
    return f"{_stem(path)}:{number}"


def _stem(path: Path) -> str:
    """Return the name of `path` up to its first dot."""
    return path.name.partition(".")[0] or path.name
