"""Step 5: which documents validate: by a hash of the content, so a document never changes sides as others come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from megacode.data.documents import Document
from megacode.data.errors import DataError


def split(documents: Sequence[Document], validation_share: float) -> tuple[list[Document], list[Document]]:
    """Return (train, validation), each sorted as given and never empty.

    A document validates when its hash, as a number in [0, 1), is below `validation_share`; when that leaves a side
    empty, the document nearest to the border moves. Raises DataError for fewer than two documents.
    """
    if len(documents) < 2:
        raise DataError(
            f"a train and a validation set need at least 2 documents; {len(documents)} left after filtering: "
            "give more files, or look at the reasons in the report"
        )
    marks = [_mark(document) for document in documents]
    chosen = {index for index, mark in enumerate(marks) if mark < validation_share}
    if not chosen:
        chosen.add(min(range(len(marks)), key=lambda index: (marks[index], index)))
    if len(chosen) == len(documents):
        chosen.remove(max(range(len(marks)), key=lambda index: (marks[index], index)))
    train = [document for index, document in enumerate(documents) if index not in chosen]
    return train, [document for index, document in enumerate(documents) if index in chosen]


def _mark(document: Document) -> float:
    """Return the document's place in [0, 1)."""
    digest = hashlib.sha256(document.content.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53
