"""Train a tokenizer on prepared documents, or reuse the one that the same documents and settings made before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from megacode.console import progress
from megacode.data.atomic import write_text
from megacode.data.document_files import Documents, document_files, read_all, sha256_of_all, texts_of
from megacode.data.errors import DataError
from megacode.data.tokenizers.tokenizer import Tokenizer, train_bpe, train_sentencepiece

MADE_FROM = "made_from.json"
KINDS = ("bpe", "sentencepiece-unigram", "sentencepiece-bpe")


def train_on_documents(
    documents: Documents, folder: Path, vocab_size: int, family: str, kind: str = "bpe"
) -> tuple[Tokenizer, bool]:
    """Train on `documents` (a .jsonl.zst, several, or a folder of them), save into `folder`.

    Only texts are learned from, not the special tokens between them. `kind`: "bpe" is byte-level and streams;
    "sentencepiece-unigram" and "sentencepiece-bpe" hold the texts in memory. Returns the tokenizer and whether it was
    reused. Raises DataError for an unknown `kind`, and as `read_documents`, `train_bpe` and `train_sentencepiece` do.
    """
    if kind not in KINDS:
        raise DataError(f"tokenizer kind must be one of {', '.join(KINDS)}; found {kind!r}")
    files = document_files(documents)
    made_from = {"documents": sha256_of_all(files), "vocab_size": vocab_size, "family": family}
    if kind != "bpe":
        made_from["kind"] = kind
    note = folder / MADE_FROM
    if _made_from(note) == made_from:
        return Tokenizer.load(folder), True
    with progress("train tokenizer: documents") as advance:

        def texts() -> Iterator[str]:
            for document in read_all(files):
                yield from texts_of(document)
                advance(1)

        if kind == "bpe":
            tokenizer = train_bpe(texts(), vocab_size, family)
        else:
            tokenizer = train_sentencepiece(texts(), vocab_size, family, kind.removeprefix("sentencepiece-"))
    note.unlink(missing_ok=True)  # never beside a tokenizer that it does not speak of
    tokenizer.save(folder)
    write_text(note, json.dumps(made_from, indent=2) + "\n")
    return tokenizer, False


def _made_from(note: Path) -> object:
    """Return what a folder's note says, None where there is none that can be read."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
