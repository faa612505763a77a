"""Train a tokenizer on prepared documents, or reuse the one that the same documents and settings made before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from megacode.console import progress
from megacode.data.atomic import write_text
from megacode.data.documents import read_documents
from megacode.data.errors import DataError
from megacode.data.tokenize import sha256_of
from megacode.data.tokenizer import Tokenizer, train_bpe

MADE_FROM = "made_from.json"


def train_on_documents(documents: Path, folder: Path, vocab_size: int, family: str) -> tuple[Tokenizer, bool]:
    """Train on `documents` (.jsonl.zst), save into `folder`; returns the tokenizer and whether it was reused.

    Raises DataError as `read_documents` and `train_bpe` do.
    """
    if not documents.is_file():
        raise DataError(f"{documents}: no such file; prepare the data first")
    made_from = {"documents": sha256_of(documents), "vocab_size": vocab_size, "family": family}
    note = folder / MADE_FROM
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == made_from:
        return Tokenizer.load(folder), True
    with progress("train tokenizer: documents") as advance:

        def texts() -> Iterator[str]:
            for document in read_documents(documents):
                yield document.content
                advance(1)

        tokenizer = train_bpe(texts(), vocab_size, family)
    tokenizer.save(folder)
    write_text(note, json.dumps(made_from, indent=2) + "\n")
    return tokenizer, False
