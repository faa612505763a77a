"""Step 3: one document for each content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from megacode.data.documents import Document
from megacode.data.prepare.report import StepReport, step_report

DUPLICATE = "same content as another document"


def drop_exact_duplicates(documents: Iterable[Document]) -> tuple[list[Document], StepReport]:
    """Return the documents, sorted as given, less those whose sha256 came before, and the step's report."""
    seen: set[bytes] = set()
    kept, dropped = [], []
    for document in documents:
        digest = hashlib.sha256(document.content.encode()).digest()
        if digest in seen:
            dropped.append((DUPLICATE, document.path))
        else:
            seen.add(digest)
            kept.append(document)
    return kept, step_report("exact duplicates", kept, dropped)
