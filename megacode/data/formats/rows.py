"""What issues, commits and notebooks share: reading columns that may be missing or odd, and checking the result.

Column names are those of The Stack (v1: `max_stars_repo_name`, …; v2: `repo_name`, …), CommitPack, and plain ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as Date
from typing import Any

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.tokenizers.sentinels import SENTINELS

Row = Mapping[str, Any]

NO_OBJECT = "the row is no object of columns"
BINARY = "binary (NUL bytes)"
NOT_UTF8 = "not UTF-8"

REPOSITORY = ("repository", "repo", "repo_name", "max_stars_repo_name", "repos")
LICENSES = ("licenses", "license", "max_stars_repo_licenses", "detected_licenses")
STARS = ("stars", "max_stars_count", "star_events_count")
DATE = ("date", "revision_date", "committer_date", "datetime")


@dataclass(frozen=True)
class Origin:
    """Where a row is from: fields of `Document`, by the same names."""

    repository: str
    licenses: tuple[str, ...]
    stars: int
    date: str


def origin(row: Row) -> Origin:
    """Return where the row is from; what it does not say is empty. Of several repositories, the first."""
    repository = text(row, *REPOSITORY) or next(iter(texts(row, *REPOSITORY)), "")
    return Origin(repository.partition(",")[0].strip(), texts(row, *LICENSES), count(row, *STARS), day(row, *DATE))


def text(row: Row, *columns: str) -> str:
    """Return the first of the columns that holds text with something in it, else the empty string."""
    return next((row[column] for column in columns if isinstance(row.get(column), str) and row[column]), "")


def texts(row: Row, *columns: str) -> tuple[str, ...]:
    """Return the texts of the first of the columns that holds any, as a list or alone, else nothing."""
    for column in columns:
        value = row.get(column)
        found = tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()
        if isinstance(value, str) and value:
            found = (value,)
        if found:
            return found
    return ()


def count(row: Row, *columns: str) -> int:
    """Return the first of the columns that holds a number of at least 0, as a whole number, else 0."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53:
            return int(value)
    return 0


def day(row: Row, *columns: str) -> str:
    """Return the first of the columns that holds text or a date (parquet has both), ISO 8601, else the empty string."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, str | Date) and value:
            return value if isinstance(value, str) else value.isoformat()
    return ""


def name(row: Row, *columns: str) -> str:
    """Return the first of the columns that holds text or a whole number, as text, else the empty string."""
    for column in columns:
        value = row.get(column)
        if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return ""


def sound(document: Document) -> Document | str:
    """Return the document, or the reason why it is none: NUL characters, or halves of surrogate pairs."""
    said = [document.content, document.id, document.path, document.language, document.repository, document.date]
    for value in (*said, *document.licenses):
        if "\0" in value:
            return BINARY
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair
            return NOT_UTF8
    return document


def require(family: str, kind: str, specials: tuple[str, ...]) -> None:
    """Raise DataError unless the family's vocabulary has all special tokens of the kind."""
    if family not in SENTINELS:
        raise DataError(f"no family of special tokens is called {family!r}; choose one of {', '.join(SENTINELS)}")
    lacking = [special for special in specials if special not in SENTINELS[family]]
    if lacking:
        able = [other for other, known in SENTINELS.items() if set(specials) <= set(known)]
        raise DataError(
            f"{family} has no {', '.join(lacking)}, so it cannot format a {kind}; "
            f"choose {' or '.join(able)}, or leave these sources out"
        )
