"""Decontamination finds what a plain search for every needle finds, whatever the case, the white space and the form."""

from __future__ import annotations

import gzip
import json
import random
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.errors import DataError
from megacode.data.prepare.decontaminate import STRETCH, Benchmarks
from megacode.data.prepare.needles import SHORTEST_OF_BENCHMARK, Needle, read_needles, stripped

EVALUATION = Path(__file__).parents[3] / "shared" / "reference" / "data" / "eval"
HUMAN_EVAL = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def close(numbers):\n    """ Are any two numbers closer\\n than a threshold?\n    """\n',
        "canonical_solution": "    for one, two in pairs(numbers):\n        if one < two + 1:\n            return 1\n",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def add(x, y):\n    import math\n    """Add the numbers x and y of any kind"""\n',
        "canonical_solution": "    return x + y\n",
    },
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def plain_search(needles: tuple[Needle, ...], content: str) -> str | None:
    text = "".join(content.lower().split())
    return next((needle.name for needle in needles if needle.text.decode("utf-8", "surrogatepass") in text), None)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("# ARE ANY TWO\n# x", None),
        ("/* are any  two NUMBERS\n\tcloser\\n than a threshold? */", "HumanEval/0"),
        ("for one,two in pairs( numbers ):\r\n if one<two+1: return 1", "HumanEval/0"),
        ("Add the numbers X and Y of any kind; are any two numbers closer\\n than a threshold?", "HumanEval/0"),
        ("'Add the numbers x and y of any kind'", "HumanEval/1"),
        ("def f(x, y):\n    return x + y\n", None),
        ("", None),
    ],
)
def test_docstrings_and_solutions_of_human_eval_are_found_but_for_trivial_ones(
    tmp_path: Path, content: str, name: str | None
) -> None:
    for file in ("HumanEval.jsonl", "HumanEval.jsonl.gz"):
        assert Benchmarks.load([write(tmp_path / file, HUMAN_EVAL)]).hit(content) == name


def test_mbpp_counts_its_test_tasks_only(tmp_path: Path) -> None:
    rows = [
        {
            "task_id": task,
            "text": f"Write a function for the number {task}.",
            "code": f"def f():\n  return {task} * 100000000",
        }
        for task in (10, 11, 510, 511)
    ]
    benchmarks = Benchmarks.load([write(tmp_path / "mbpp.jsonl", rows)])
    assert [needle.name for needle in benchmarks.needles] == ["MBPP/11", "MBPP/11", "MBPP/510", "MBPP/510"]
    assert benchmarks.hit("write a function for the number 510.") == "MBPP/510"
    assert benchmarks.hit("def f(): return 11*100000000") == "MBPP/11"
    assert benchmarks.hit("def f(): return 511*100000000") is None
    sanitized = tmp_path / "sanitized.json"
    sanitized.write_text(json.dumps([{**row, "prompt": row["text"], "text": row["text"]} for row in rows]))
    assert Benchmarks.load([sanitized]).fingerprint == benchmarks.fingerprint


def test_questions_and_lists_are_named_by_their_file_and_line(tmp_path: Path) -> None:
    questions = write(
        tmp_path / "gsm8k.jsonl", [{"question": "Natalia sold clips to 48 of her friends in April.", "answer": "72"}]
    )
    listed = write(
        tmp_path / "own.jsonl", [{"text": "my canary"}, {"id": "c2", "text": "another canary of mine, a long one"}]
    )
    lines = tmp_path / "lines.txt"
    lines.write_text("First Canary\n\n  Second canary, which is longer than that\n")
    benchmarks = Benchmarks.load([questions, listed, lines])
    assert benchmarks.hit("natalia SOLD clips to 48 of her friends in april.") == "gsm8k:1"
    assert benchmarks.hit("x my\ncanary y") == "own:1"
    assert benchmarks.hit("another canary of mine,\n a long one") == "c2"
    assert benchmarks.hit("firstCANARY") == "lines:1"
    assert benchmarks.hit("second canary, which is longer than that") == "lines:3"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"answer": 1}\n', "columns answer"),
        ("a.jsonl", "[1]\n", "must be an object"),
        ("a.jsonl", "{nonsense\n", "not JSON"),
        ("a.jsonl", "", "no text to look for"),
        ("a.txt", "\n \n", "no text to look for"),
        ("a.txt", "ab c\n", "line 1.*found everywhere"),
        ("a.jsonl", '{"question": "short"}\n', "no text to look for"),
        ("a.jsonl.gz", "not gzip", "damaged"),
        ("a.txt", "\udcff\udcfe binary here\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        Benchmarks.load([tmp_path / name])
    with pytest.raises(DataError, match="no such benchmark file"):
        Benchmarks.load([tmp_path / "missing.jsonl"])


def test_fingerprint_changes_with_any_needle_and_not_with_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first, same = write(tmp_path / "h.jsonl", HUMAN_EVAL), write(tmp_path / "a" / "other.jsonl", HUMAN_EVAL)
    changed = write(
        tmp_path / "c.jsonl", [HUMAN_EVAL[0], {**HUMAN_EVAL[1], "prompt": '"""Add the numbers x, y of any kind"""'}]
    )
    assert Benchmarks.load([first]).fingerprint == Benchmarks.load([same]).fingerprint
    prints = {
        Benchmarks.load(paths).fingerprint for paths in ([first], [changed], [changed, first], [first, changed], [])
    }
    assert len(prints) == 5
    assert Benchmarks.load([]).hit("anything at all, however long it may be") is None


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text("abAB é\n", min_size=8, max_size=80), min_size=1, max_size=20),
    st.lists(st.one_of(st.integers(0, 19), st.text("abAB é\n", max_size=40)), max_size=6),
)
def test_hits_are_those_of_a_plain_search(texts: list[str], pieces: list[int | str]) -> None:
    benchmarks = Benchmarks.of(Needle(f"n{number}", stripped(text)) for number, text in enumerate(texts))
    content = "".join(piece if isinstance(piece, str) else texts[piece % len(texts)] for piece in pieces)
    assert benchmarks.hit(content) == plain_search(benchmarks.needles, content)


def test_a_needle_is_found_at_every_position_and_by_all_but_one_character_not() -> None:
    draws = random.Random(5)
    words = ["".join(draws.choices("abcdefgh_", k=length)) for length in (*range(8, 60), 300, 5000)]
    benchmarks = Benchmarks.of(Needle(word, word.encode()) for word in words)
    for word in words:
        for shift in range(17):
            assert benchmarks.hit("Z" * shift + word.upper() + "z") == word
        assert benchmarks.hit("z" + word[:-1] + "Z" + word[1:-1]) is None or len(word) <= STRETCH


def test_twenty_megabytes_a_second_with_thousands_of_needles() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(root.glob("*.py"))]
    draws = random.Random(3)
    drawn = (draws.choice(texts) for _ in range(5000))
    starts = ((text, draws.randrange(max(len(text) - 400, 1))) for text in drawn)
    needles = [Needle(str(number), stripped(text[at : at + 400]) + b"#") for number, (text, at) in enumerate(starts)]
    benchmarks = Benchmarks.of(needles)
    start = time.process_time()
    found = [benchmarks.hit(text) for text in texts]
    seconds = time.process_time() - start
    assert seconds < sum(map(len, texts)) / 20e6
    for text, name in list(zip(texts, found, strict=True))[:20]:
        assert plain_search(benchmarks.needles, text) == name


@pytest.mark.skipif(not EVALUATION.is_dir(), reason="the benchmarks' own files are not here")
def test_every_task_of_the_real_benchmarks_is_found_by_its_name() -> None:
    path = EVALUATION / "humaneval" / "HumanEval.jsonl.gz"
    benchmarks = Benchmarks.load([path, EVALUATION / "mbpp" / "mbpp.jsonl"])
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    exempt = 0
    for row in rows:
        assert benchmarks.hit("import x\n" + row["prompt"].replace("    ", "\t").upper()) == row["task_id"]
        solution = row["canonical_solution"]
        name = benchmarks.hit("def f():\n" + solution)
        exempt += len(stripped(solution)) < SHORTEST_OF_BENCHMARK
        assert name == (None if len(stripped(solution)) < SHORTEST_OF_BENCHMARK else row["task_id"])
    assert exempt == 13
    tasks = {needle.name for needle in benchmarks.needles if needle.name.startswith("MBPP/")}
    assert tasks == {f"MBPP/{task}" for task in range(11, 511)}
    both = read_needles(EVALUATION / "mbpp" / "sanitized-mbpp.json")
    assert both and all(needle.name.startswith("MBPP/") for needle in both)
    for name in ("SingleLineInfilling", "RandomSpanInfillingLight"):
        assert read_needles(EVALUATION / "humaneval-infilling" / f"HumanEval-{name}.jsonl.gz")
