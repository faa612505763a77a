"""Prepared documents to one indexed shard: encode, end every document with end-of-text, say what made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megacode.console import progress
from megacode.data.documents import Document, read_documents
from megacode.data.errors import DataError
from megacode.data.indexed import ShardReader, ShardWriter
from megacode.data.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from megacode.data.tokenizer import Tokenizer

CHUNK_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class TokenizeReport:
    """One shard's counts: documents, tokens (end-of-text included), bytes of text, and whether it was already there."""

    prefix: Path
    documents: int
    tokens: int
    content_bytes: int
    vocab_size: int
    reused: bool

    @property
    def bytes_per_token(self) -> float:
        """Bytes of source text that a token stands for, end-of-text counted as a token."""
        return self.content_bytes / max(self.tokens, 1)


def tokenize(documents: Path | str, tokenizer: Tokenizer, prefix: Path | str) -> TokenizeReport:
    """Write `prefix`.bin, .idx and .json from a prepared .jsonl.zst; nothing is done when they already match.

    Matching means: same tokenizer fingerprint, same sha256 of `documents`, an intact shard.
    Raises DataError when `documents` cannot be read or holds nothing.
    """
    documents, prefix = Path(documents), Path(prefix)
    if not documents.is_file():
        raise DataError(f"{documents}: no such file; prepare the data first")
    digest = sha256_of(documents)
    ready = _matching(prefix, tokenizer, digest)
    if ready is not None:
        return _report(prefix, ready, reused=True)
    sidecar_path(prefix).unlink(missing_ok=True)
    content_bytes = 0
    with ShardWriter(prefix, tokenizer.vocab_size) as writer, progress(f"tokenize {documents.name}") as advance:
        for chunk in _chunks(documents):
            for document, ids in zip(chunk, tokenizer.encode_batch([one.content for one in chunk]), strict=True):
                writer.add([*ids, tokenizer.end_of_text])
                content_bytes += len(document.content.encode())
            advance(len(chunk))
        if not writer.documents:
            raise DataError(f"{documents}: holds no documents; prepare again")
    sidecar = Sidecar(
        tokenizer=tokenizer.fingerprint,
        input_sha256=digest,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        documents=writer.documents,
        tokens=writer.tokens,
        content_bytes=content_bytes,
    )
    write_sidecar(prefix, sidecar)
    return _report(prefix, sidecar, reused=False)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matching(prefix: Path, tokenizer: Tokenizer, digest: str) -> Sidecar | None:
    """Return the sidecar of a shard that these inputs made and that is intact, or None."""
    try:
        sidecar = read_sidecar(prefix)
        reader = ShardReader(prefix)
    except DataError:
        return None
    same = (sidecar.tokenizer, sidecar.input_sha256) == (tokenizer.fingerprint, digest)
    return sidecar if same and (reader.documents, reader.tokens) == (sidecar.documents, sidecar.tokens) else None


def _chunks(documents: Path) -> Iterator[list[Document]]:
    """Yield the documents in lists of about CHUNK_CHARACTERS characters."""
    chunk: list[Document] = []
    characters = 0
    for document in read_documents(documents):
        chunk.append(document)
        characters += len(document.content)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _report(prefix: Path, sidecar: Sidecar, reused: bool) -> TokenizeReport:
    """Return the user's view of a sidecar."""
    return TokenizeReport(
        prefix=prefix,
        documents=sidecar.documents,
        tokens=sidecar.tokens,
        content_bytes=sidecar.content_bytes,
        vocab_size=sidecar.vocab_size,
        reused=reused,
    )
