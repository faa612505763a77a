"""Which documents validate: by a hash of the content, so a document never changes sides as others come.

The half of the hash that decides is not the one that orders the documents, so every file has both kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from megacode.data.documents import Document

SIDES = ("train", "validation")


def key_of(document: Document) -> bytes:
    """Return the sha256 of the document's content: its place in the order of all documents."""
    return hashlib.sha256(document.content.encode()).digest()


def repository_key(document: Document) -> bytes:
    """Return the sha256 of the repository's name, or of the content of a document without one."""
    return hashlib.sha256(document.repository.encode()).digest() if document.repository else key_of(document)


@dataclass
class Split:
    """Puts documents on a side, and remembers the keys nearest to the border on either side.

    `moved` is a key whose documents go to the other side than their hash says.
    """

    validation_share: float
    moved: str = ""
    lowest_train: tuple[float, str] | None = None
    highest_validation: tuple[float, str] | None = None

    def side(self, key: bytes) -> str:
        """Return "validation" when the second half of the hash, as a number in [0, 1), is below the share."""
        place = (int.from_bytes(key[8:16], "big") >> 11) * 2.0**-53
        validates = place < self.validation_share
        mark = (place, key.hex())
        if validates:
            self.highest_validation = max(self.highest_validation or mark, mark)
        else:
            self.lowest_train = min(self.lowest_train or mark, mark)
        return SIDES[validates != (key.hex() == self.moved)]

    def to_table(self) -> dict[str, Any]:
        """Return the border's nearest keys, fit for JSON."""
        return {"lowest_train": self.lowest_train, "highest_validation": self.highest_validation}


def to_move(borders: Iterable[dict[str, Any]]) -> str:
    """Return the key, hexadecimal, that must change sides so that neither is empty, or the empty string.

    `borders` are what `Split.to_table` returned for each part of the documents.
    """
    borders = list(borders)
    trains = sorted(tuple(one["lowest_train"]) for one in borders if one["lowest_train"])
    validations = sorted(tuple(one["highest_validation"]) for one in borders if one["highest_validation"])
    if trains and validations:
        return ""
    nearest = trains[0] if trains else validations[-1] if validations else ("", "")
    return str(nearest[1])
