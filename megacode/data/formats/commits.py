"""Commits that change one file: the code before, the message's subject, the code after.

    <commit_before>old code<commit_msg>subject<commit_after>new code

One in five shows the whole file; the others show the lines that changed with 0 to 31 lines around them, as many
before as after the commit. Rules: StarCoder (arXiv 2305.06161, section 3.4) with bigcode-dataset; what is random is
drawn by (seed, commit). Only StarCoder's vocabulary has these tokens.

Ours differs where the published notebook measures a change from the file's first line (a minimum that starts at 0):
here it is from the first line that differs to the last, in the longer of the two files' ranges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from megacode.data.documents import Document, with_parts
from megacode.data.draws import COMMIT, below, happens
from megacode.data.formats import rows
from megacode.data.formats.keyed import hash_of, words_for

KIND = "commit"
BEFORE, MESSAGE, AFTER = "<commit_before>", "<commit_msg>", "<commit_after>"

MOST_CHARACTERS = 100_000
SMALL_RANGE, LARGE_RANGE, RANGE_RATE = 2, 200, 0.1
FEW_WORDS, FEW_WORDS_RATE = 5, 0.5
LONG_WORDS = 20
DATA_RATE = 0.5
WHOLE_RATE = 0.2
CONTEXT_LINES = 32
DATA_FORMATS = frozenset({"json", "yml", "yaml", "xml", "html", "htm"})
UNKNOWN = "unknown"

NO_CONTENTS = "no old_contents, new_contents and message"
LONG = f"{MOST_CHARACTERS} characters or more"
GONE = "no code after the commit"
SAME = "no change"
NO_SUBJECT = "no subject"
SAYS_NOTHING = "a subject that says nothing"
VERSION = "a subject that is a version"
MERGE = "a merge"
HASHES = f"over {LONG_WORDS} characters a word in the subject"
RANGE_DRAWN = f"a change of up to {SMALL_RANGE} or from {LARGE_RANGE} lines, not drawn"
WORDS_DRAWN = f"a subject of under {FEW_WORDS} words, not drawn"
DATA_DRAWN = "a data format, not drawn"

NOTHING = frozenset(
    {
        *("commit", "changes", "debug", "dummy", "fix", "minor", "misc", "no message", "readme", "test", "tmp", "wip"),
        *("update", "updated", "update readme", "update readme.md", "updated readme", "updated readme.md"),
    }
)
NOTHING_INSIDE = ("auto commit", "autocommit", "update contributing", "<?xml")
_VERSION = re.compile(r"(?:release|version|bump(?: version)?(?: to)?)?[ :]*v?\d+(?:\.\d+)+\S*")
_MERGE = re.compile(r"merged? (?:branch|pull request|remote-tracking|tag|commit|remote|in|pr|upstream|origin)\b")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Change(NamedTuple):
    """The lines that differ: `start` in both files, `old_end` and `new_end` behind the last of each."""

    start: int
    old_end: int
    new_end: int

    @property
    def lines(self) -> int:
        """The longer range."""
        return max(self.old_end, self.new_end) - self.start


def commit_document(row: object, family: str, seed: int) -> Document | str:
    """Return the commit's document, or the reason why there is none.

    `row` is an object with `old_contents`, `new_contents` and `message` or `subject` (whose first line is used); a
    commit's id is its `commit` or `id`. Raises DataError for a family that lacks the special tokens.
    """
    rows.require(family, KIND, (BEFORE, MESSAGE, AFTER))
    if not isinstance(row, Mapping):
        return rows.NO_OBJECT
    old, new = row.get("old_contents"), row.get("new_contents")
    message = rows.text(row, "subject") or row.get("message")
    if not (isinstance(old, str) and isinstance(new, str) and isinstance(message, str)):
        return NO_CONTENTS
    subject = message.strip().partition("\n")[0].strip()
    path = rows.text(row, "new_file", "path", "old_file")
    identity = rows.name(row, "id", "commit", "hexsha") or hash_of([old, new, message, path])
    drawn = words_for(seed, COMMIT, identity, 6)
    reason = _why_never(old, new) or why_not_said(subject)
    if reason:
        return reason
    old_lines, new_lines = _LINE.findall(old), _LINE.findall(new)
    change = change_of(old_lines, new_lines)
    reason = _why_not_drawn(change, subject, path, drawn)
    if reason:
        return reason
    if not happens(drawn[3], WHOLE_RATE):
        before, after = below(drawn[4], CONTEXT_LINES), below(drawn[5], CONTEXT_LINES)
        start = max(0, change.start - before)
        old = "".join(old_lines[start : change.old_end + after])
        new = "".join(new_lines[start : change.new_end + after])
    return rows.sound(_document(row, identity, path, [(BEFORE, old), (MESSAGE, subject), (AFTER, new)]))


def change_of(old_lines: list[str], new_lines: list[str]) -> Change:
    """Return the smallest range of lines outside which the files are the same; empty where they are equal."""
    shorter = min(len(old_lines), len(new_lines))
    start = 0
    while start < shorter and old_lines[start] == new_lines[start]:
        start += 1
    tail = 0
    while tail < shorter - start and old_lines[-1 - tail] == new_lines[-1 - tail]:
        tail += 1
    return Change(start, len(old_lines) - tail, len(new_lines) - tail)


def why_not_said(subject: str) -> str:
    """Return why a commit with this subject teaches nothing about its change, or the empty string."""
    said = " ".join(subject.lower().split()).rstrip(".!")
    if not said:
        return NO_SUBJECT
    if said in NOTHING or any(text in said for text in NOTHING_INSIDE):
        return SAYS_NOTHING
    if _VERSION.fullmatch(said):
        return VERSION
    if _MERGE.match(said):
        return MERGE
    return HASHES if len(subject) > LONG_WORDS * len(said.split()) else ""


def _why_never(old: str, new: str) -> str:
    """Return why the files are out whatever is drawn, or the empty string."""
    if max(len(old), len(new)) >= MOST_CHARACTERS:
        return LONG
    if not new.strip():
        return GONE
    return SAME if old == new else ""


def _why_not_drawn(change: Change, subject: str, path: str, drawn: list[int]) -> str:
    """Return which thinning out the commit fell to, or the empty string."""
    if not SMALL_RANGE < change.lines < LARGE_RANGE and not happens(drawn[0], RANGE_RATE):
        return RANGE_DRAWN
    if len(subject.split()) < FEW_WORDS and not happens(drawn[1], FEW_WORDS_RATE):
        return WORDS_DRAWN
    is_data = PurePath(path).suffix.lower().removeprefix(".") in DATA_FORMATS
    return DATA_DRAWN if is_data and not happens(drawn[2], DATA_RATE) else ""


def _document(row: Mapping[str, Any], identity: str, path: str, parts: list[tuple[str, str]]) -> Document:
    """Return the document of a commit that is kept."""
    origin = rows.origin(row)
    language = next(iter(rows.texts(row, "language", "lang", "languages")), UNKNOWN).lower()
    fields = (origin.repository, origin.licenses, origin.stars, origin.date, KIND)
    return with_parts(Document(identity, path or identity, language, "", *fields), parts)
