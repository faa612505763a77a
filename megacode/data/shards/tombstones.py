"""PREFIX.removed.json: which documents of a shard were removed, on whose word, and whether that is finished.

The numbers are what a training run needs; the requests are what an auditor needs, and what keeps a shard that is made
again from bringing the documents back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.shards.removal_list import RemovalList

FORMAT = 1


@dataclass(frozen=True)
class Request:
    """One call to remove documents: who asked, when and why, what for, and how many documents it newly removed."""

    who: str
    when: str
    why: str
    asked: RemovalList
    documents: int


@dataclass(frozen=True)
class Tombstones:
    """`documents`: sorted numbers; `ids` of the same documents in the same order; `requests` in the order they came.

    `finished`: the tokens, the table and the sidecar have followed; if not, the next removal completes it.
    """

    documents: tuple[int, ...] = ()
    ids: tuple[str, ...] = ()
    requests: tuple[Request, ...] = ()
    finished: bool = True

    @property
    def asked(self) -> RemovalList:
        """Everything that was ever asked out here, and the ids of what was found."""
        total = RemovalList.of(ids=self.ids)
        for request in self.requests:
            total |= request.asked
        return total


def tombstones_path(prefix: Path) -> Path:
    """Return the tombstones' file name for `prefix`."""
    return prefix.with_name(prefix.name + ".removed.json")


def write_tombstones(prefix: Path, tombstones: Tombstones) -> None:
    """Replace PREFIX.removed.json, whole or not at all."""
    requests = [{**asdict(one), "asked": one.asked.to_json()} for one in tombstones.requests]
    form = {"format": FORMAT, **asdict(tombstones), "requests": requests}
    write_text(tombstones_path(prefix), json.dumps(form, indent=1) + "\n")


def read_tombstones(prefix: Path) -> Tombstones:
    """Read PREFIX.removed.json, none when there is no file. Raises DataError for a file of another shape."""
    file = tombstones_path(prefix)
    if not file.is_file():
        return Tombstones()
    try:
        form = json.loads(file.read_text(encoding="utf-8"))
        if form.pop("format") != FORMAT:
            raise ValueError("another format")
        requests = [Request(**{**one, "asked": RemovalList.from_json(one["asked"])}) for one in form.pop("requests")]
        documents, ids = tuple(form.pop("documents")), tuple(form.pop("ids"))
        found = Tombstones(documents, ids, tuple(requests), **form)
        numbers = all(type(number) is int for number in documents) and all(isinstance(one, str) for one in ids)
        if not numbers or type(found.finished) is not bool or len(ids) != len(documents):
            raise TypeError("values of other types")
        if any(later <= earlier for earlier, later in zip((-1, *documents), documents, strict=False)):
            raise ValueError("document numbers must rise from 0")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: not a list of removed documents ({error}); restore it from a copy") from error
    return found
