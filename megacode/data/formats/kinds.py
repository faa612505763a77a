"""From a source's kind, as a configuration names it, to the function that makes a document of its rows."""

from __future__ import annotations

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.formats.commits import commit_document
from megacode.data.formats.issues import issue_document
from megacode.data.formats.notebooks import notebook_document, script_document

KINDS = ("issue", "commit", "notebook", "notebook-script")


def documents_of(kind: str, row: object, family: str, seed: int) -> Document | str:
    """Return the document of a row (a JSON value), or the reason why it gives none; same arguments, same result.

    Raises DataError for a kind that is not in `KINDS`, and for a family without the kind's special tokens.
    """
    if kind == "issue":
        return issue_document(row, family)
    if kind == "commit":
        return commit_document(row, family, seed)
    if kind == "notebook":
        return notebook_document(row, family)
    if kind == "notebook-script":
        return script_document(row, family)
    raise DataError(f"no source is of kind {kind!r}; choose one of {', '.join(KINDS)}")
