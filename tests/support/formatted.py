"""What holds for every document that a format makes."""

from __future__ import annotations

from megacode.data.documents import Document, from_json, to_json
from megacode.data.tokenizers.sentinels import SENTINELS


def check_formatted(document: Document, family: str) -> list[str]:
    """Special tokens are the family's, the content is the texts, a line on disk gives it back. Returns the specials."""
    specials = [special for special, _ in document.parts]
    assert set(specials) <= {"", *SENTINELS[family]}
    assert document.content == "".join(text for _, text in document.pieces)
    assert document.id and document.path and document.language == document.language.lower()
    assert from_json(to_json(document)) == document
    return specials


def spelled(document: Document) -> str:
    """The document with its special tokens spelled out."""
    return "".join(special + text for special, text in document.pieces)
