"""Commits: what they show of the code, which are kept, and that a commit's draws are its own."""

from __future__ import annotations

from typing import Any

import pytest
from formatted import check_formatted, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.formats import commits
from megacode.data.formats.commits import change_of, commit_document, why_not_said
from megacode.data.formats.rows import BINARY, NO_OBJECT

SUBJECT = "Read the table in one pass"
COUNT = 20_000
SPECIALS = ["<commit_before>", "<commit_msg>", "<commit_after>"]


def row(old: str, new: str, identity: str = "c0", message: str = SUBJECT, **more: object) -> dict[str, Any]:
    return {"commit": identity, "old_contents": old, "new_contents": new, "message": message, "new_file": "x.py"} | more


def code(changed: str = "", lines: int = 100, at: int = 50, count: int = 5) -> str:
    """`lines` numbered lines, `count` of them from `at` on with `changed` behind the number."""
    return "".join(f"{n}{changed if at <= n < at + count else ''}\n" for n in range(lines))


def made(found: Document | str) -> Document:
    assert isinstance(found, Document), found
    assert check_formatted(found, "starcoder") == SPECIALS
    return found


def share(rows: list[dict[str, Any]]) -> float:
    return sum(isinstance(commit_document(one, "starcoder", 3), Document) for one in rows) / len(rows)


def within(found: float, rate: float, count: int) -> bool:
    return abs(found - rate) <= 5 * (rate * (1 - rate) / count) ** 0.5


def test_a_commit_tells_where_it_is_from() -> None:
    given_row = row(code(), code("!"), language="Python", repos="a/b,c/d", license="mit", stars=3)
    document = made(commit_document(given_row, "starcoder", 0))
    assert (document.id, document.path, document.language, document.kind) == ("c0", "x.py", "python", "commit")
    assert (document.repository, document.licenses, document.stars) == ("a/b", ("mit",), 3)
    assert document.parts[1][1] == SUBJECT


def test_only_the_subject_of_a_message_is_told() -> None:
    document = made(commit_document(row(code(), code("!"), message=f"\n {SUBJECT} \n\nWhy: ...\n"), "starcoder", 0))
    assert document.parts[1][1] == SUBJECT


def test_one_in_five_is_whole_and_the_others_have_0_to_31_lines_around_the_change() -> None:
    whole, before_counts, after_counts = 0, [0] * 32, [0] * 32
    for number in range(4000):
        document = made(commit_document(row(code(), code("!"), str(number)), "starcoder", 1))
        (_, old), _, (_, new) = document.parts
        old_lines, new_lines = old.splitlines(), new.splitlines()
        first = int(old_lines[0])
        assert old_lines == [str(n) for n in range(first, first + len(old_lines))]
        assert new_lines == [f"{n}!" if 50 <= int(n) < 55 else n for n in old_lines]
        if len(old_lines) == 100:
            whole += 1
        else:
            before_counts[50 - first] += 1
            after_counts[int(old_lines[-1]) - 54] += 1
    assert within(whole / 4000, 0.2, 4000)
    assert all(within(n / (4000 - whole), 1 / 32, 4000 - whole) for n in before_counts + after_counts)


def test_context_ends_at_the_files_ends() -> None:
    old, new = "a\nb\nc\nd", "a\nB\nC\nD"
    for number in range(50):
        (_, before), _, (_, after) = made(commit_document(row(old, new, str(number)), "starcoder", 0)).parts
        assert (before, after) in ((old, new), ("b\nc\nd", "B\nC\nD"))


@pytest.mark.parametrize(("count", "rate"), [(1, 0.1), (2, 0.1), (3, 1.0), (199, 1.0), (200, 0.1), (201, 0.1)])
def test_small_and_large_changes_are_kept_at_a_tenth(count: int, rate: float) -> None:
    number = 2000 if rate < 1 else 20
    old, new = code(lines=300, count=count), code("!", lines=300, count=count)
    assert within(share([row(old, new, str(n)) for n in range(number)]), rate, number)


def test_a_change_is_as_long_as_the_longer_of_its_two_ranges() -> None:
    assert change_of(["a", "b"], ["a", "1", "2", "3", "b"]) == (1, 1, 4)
    assert change_of(["a", "b"], ["a", "1", "2", "3", "b"]).lines == 3
    assert change_of(["a", "b", "c"], ["a", "c"]).lines == 1


@settings(max_examples=300, deadline=None)
@given(*[st.lists(st.sampled_from(["a\n", "b\n", "c\n"]), max_size=12)] * 2)
def test_outside_of_a_change_the_files_are_the_same_and_at_its_ends_they_are_not(old: list, new: list) -> None:
    start, old_end, new_end = change_of(old, new)
    assert old[:start] == new[:start] and old[old_end:] == new[new_end:]
    assert start <= old_end and start <= new_end
    if start < old_end and start < new_end:
        assert old[start] != new[start] and old[old_end - 1] != new[new_end - 1]


def test_rates_of_short_subjects_and_data_formats() -> None:
    old, new = "a\nb\nc\n", "A\nB\nC\n"
    short = [row(old, new, str(n), "Cache the rows") for n in range(COUNT)]
    data = [row(old, new, str(n), new_file="x.json") for n in range(COUNT)]
    both = [row(old, new, str(n), "Cache the rows", new_file="a/X.YAML") for n in range(COUNT)]
    assert within(share(short), 0.5, COUNT) and within(share(data), 0.5, COUNT)
    assert within(share(both), 0.25, COUNT)  # apart from each other


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        *(("", commits.NO_SUBJECT), ("  ", commits.NO_SUBJECT), ("Update README.md", commits.SAYS_NOTHING)),
        *(("wip.", commits.SAYS_NOTHING), ("Auto commit of the day", commits.SAYS_NOTHING)),
        *(("v1.2.3", commits.VERSION), ("1.2", commits.VERSION), ("Bump version to 2.0.0-rc1", commits.VERSION)),
        *(("Release 3.1.4", commits.VERSION), ("3.1.4 breaks the parser, so pin it", "")),
        *(("Merge branch 'x' into y", commits.MERGE), ("Merge pull request #3 from a/b", commits.MERGE)),
        *(("Merge sort in place of bubble sort", ""), ("Update the parser", ""), ("Fix it", "")),
        *(("d41d8cd98f00b204e9800998ecf8427e", commits.HASHES), ("a" * 21, commits.HASHES), ("a" * 20, "")),
    ],
)
def test_subjects_that_say_nothing_are_dropped(subject: str, reason: str) -> None:
    assert why_not_said(subject) == reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        *(("a" * 100_000, "b", commits.LONG), ("b", "a" * 100_000, commits.LONG)),
        *(("a\n", " \n", commits.GONE), ("a\n", "a\n", commits.SAME), ("a\0\nb\nc", "b\nc\nd\n", BINARY)),
    ],
)
def test_files_that_cannot_be_used_are_dropped(old: str, new: str, reason: str) -> None:
    assert commit_document(row(old, new), "starcoder", 0) == reason


@pytest.mark.parametrize(
    ("given_row", "reason"),
    [
        *((None, NO_OBJECT), ([], NO_OBJECT), ({}, commits.NO_CONTENTS)),
        ({"old_contents": "a", "new_contents": None, "message": SUBJECT}, commits.NO_CONTENTS),
        ({"old_contents": "a", "new_contents": "b", "message": 3}, commits.NO_CONTENTS),
    ],
)
def test_rows_of_another_shape_have_a_reason(given_row: object, reason: str) -> None:
    assert commit_document(given_row, "starcoder", 0) == reason


def test_starcoder2_has_no_commits_and_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"no <commit_before>.*choose starcoder, or leave"):
        commit_document(row("a", "b"), "starcoder2", 0)


lines = st.lists(st.sampled_from(["a\n", "b\r\n", "<commit_msg>\n", "\x0c\n", "\u2028x\n", "\n"]), max_size=50)


@settings(max_examples=200, deadline=None)
@given(old=lines, new=lines, end=st.sampled_from(["", "end"]), seed=st.integers(0, 2**64 - 1), identity=st.text())
def test_what_is_shown_is_a_piece_of_each_file_around_all_that_changed(
    old: list[str], new: list[str], end: str, seed: int, identity: str
) -> None:
    before, after = "".join(old) + end, "".join(new) + end
    given_row = row(before, after, identity)
    found = commit_document(given_row, "starcoder", seed)
    assert found == commit_document(given_row, "starcoder", seed)
    if isinstance(found, Document):
        (_, shown_before), (_, subject), (_, shown_after) = made(found).parts
        assert subject == SUBJECT
        assert any(
            before == left + shown_before + right and after == left + shown_after + right
            for left in [before[:n] for n in range(len(before) + 1)]
            for right in [before[len(left) + len(shown_before) :]]
        )
        assert spelled(found).startswith(f"<commit_before>{shown_before}<commit_msg>{SUBJECT}<commit_after>")


def test_another_seed_keeps_other_commits() -> None:
    rows = [row("a\n", "b\n", str(n)) for n in range(300)]
    kept = [[isinstance(commit_document(one, "starcoder", seed), Document) for one in rows] for seed in (1, 2)]
    assert kept[0] != kept[1]
