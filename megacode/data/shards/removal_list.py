"""Who asked to be left out: documents by id, repository or path, from a file that people can write by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacode.data.compressed import lines
from megacode.data.errors import DataError

FIELDS = ("id", "repository", "path")


@dataclass(frozen=True)
class RemovalList:
    """Ids, repositories (`owner/name`, upper and lower case alike) and paths; a document that is in any goes.

    A path is a document's own, or its repository and path with a slash between.
    """

    ids: frozenset[str] = frozenset()
    repositories: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ids: Iterable[str] = (), repositories: Iterable[str] = (), paths: Iterable[str] = ()) -> RemovalList:
        """Return the list of these names; empty ones and the case of repositories' names are dropped."""
        names = frozenset(_repository(name) for name in repositories)
        return cls(frozenset(ids) - {""}, names - {""}, frozenset(paths) - {""})

    def __bool__(self) -> bool:
        return bool(self.ids or self.repositories or self.paths)

    def __or__(self, other: RemovalList) -> RemovalList:
        return RemovalList(self.ids | other.ids, self.repositories | other.repositories, self.paths | other.paths)

    def names(self, id: str, repository: str, path: str) -> bool:
        """Return whether a document with this id, repository and path is to go."""
        if id in self.ids or path in self.paths:
            return True
        if not repository:
            return False
        return _repository(repository) in self.repositories or f"{repository}/{path}" in self.paths

    def to_json(self) -> dict[str, list[str]]:
        """Return the sorted names by field."""
        return {"ids": sorted(self.ids), "repositories": sorted(self.repositories), "paths": sorted(self.paths)}

    @classmethod
    def from_json(cls, form: Any) -> RemovalList:
        """Return the list of a form of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        rows = [form[name] for name in ("ids", "repositories", "paths")]
        if not all(isinstance(row, list) and all(isinstance(name, str) for name in row) for row in rows):
            raise TypeError("ids, repositories and paths must be lists of text")
        return cls.of(*rows)

    @property
    def fingerprint(self) -> str:
        """The sha256 of what is listed, empty for an empty list."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest() if self else ""


def load_removal_list(path: Path | str) -> RemovalList:
    """Read a removal list: one id, repository (`owner/name` or its address) or path a line; `#` begins a comment.

    A file whose name ends in .jsonl (also .jsonl.gz, .jsonl.zst) has an object a line instead, with any of `id`,
    `repository` and `path`; a document must match one of them. A plain line may be any of the three, so it is looked
    for in all. Raises DataError naming the line that is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a removal list with one id, repository or path a line")
    found: dict[str, set[str]] = {name: set() for name in FIELDS}
    objects = path.name.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl")
    for number, raw in enumerate(lines(path), start=1):
        try:
            line = raw.decode("utf-8").strip()
            entry = _entry(line) if objects else dict.fromkeys(FIELDS, "" if line.startswith("#") else line)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: not an entry of a removal list ({error}); mend the line"
            ) from error
        for name, value in entry.items():
            found[name].add(value)
    return RemovalList.of(found["id"], found["repository"], found["path"])


def _entry(line: str) -> dict[str, str]:
    """Return the fields of an object's line. Raises ValueError or TypeError for another shape."""
    if not line:
        return {}
    form = json.loads(line)
    if not isinstance(form, dict) or not form or not set(form) <= set(FIELDS):
        raise TypeError(f"must be an object with any of {', '.join(FIELDS)}")
    if not all(isinstance(value, str) and value for value in form.values()):
        raise TypeError("every value must be text")
    return form


def _repository(name: str) -> str:
    """Return `owner/name` in lower case, from that or from the repository's address."""
    if "://" in name:
        name = name.split("://", 1)[1].partition("/")[2]
    return name.rstrip("/").removesuffix(".git").lower()
