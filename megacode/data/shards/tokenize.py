"""Prepared documents to indexed shards: encode, end every document with end-of-text, say what made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from megacode.console import progress
from megacode.data.document_files import Documents, document_files, read_all, sha256_of, sha256_of_all
from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.shards.encoding import encode_documents
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.removal_list import RemovalList
from megacode.data.shards.shard_set import ShardSet, ShardSetWriter, asked_out_before, read_set
from megacode.data.shards.sidecar import Sidecar, check_counts, read_sidecar
from megacode.data.tokenizers.tokenizer import Tokenizer

__all__ = ["TokenizeReport", "sha256_of", "tokenize"]

DROP, KEEP = "drop", "keep"
LOSSY, REMOVED = "bytes without a token", "on the removal list"
NOBODY = RemovalList()


@dataclass(frozen=True)
class TokenizeReport:
    """The shards' counts: documents, tokens (end-of-text included), bytes of text, and whether they were there before.

    `shards`: their prefixes, sorted; `dropped`: documents left out, by reason; `lossy`: documents with bytes that the
    vocabulary has no token for, dropped or kept.
    """

    prefix: Path
    documents: int
    tokens: int
    content_bytes: int
    vocab_size: int
    reused: bool
    shards: tuple[Path, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    lossy: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of source text that a token stands for, end-of-text counted as a token."""
        return self.content_bytes / max(self.tokens, 1)


def tokenize(
    documents: Documents,
    tokenizer: Tokenizer,
    prefix: Path | str,
    *,
    by_language: bool = False,
    most_tokens: int = 0,
    lossy: str = DROP,
    removed: RemovalList = NOBODY,
    source: str = "",
) -> TokenizeReport:
    """Write shards from prepared documents (a .jsonl.zst, several, or a folder); nothing is done when they match.

    One shard `prefix` (.bin, .idx, .json, .documents.parquet); `by_language`: one shard `prefix`-LANGUAGE each;
    `most_tokens` > 0: shards are numbered, and a document that would not fit begins the next. `lossy`: "drop" or "keep"
    documents with bytes that the vocabulary has no token for. `removed`: documents to leave out; those that were ever
    removed from the shards at `prefix` are left out as well. `source`: a name for the sidecars.

    Matching means: same tokenizer fingerprint, input's sha256 and options, shards intact in size and count.
    Raises DataError when the documents cannot be read or none is left, or have special tokens the tokenizer lacks.
    """
    prefix, files = Path(prefix), document_files(documents)
    if lossy not in (DROP, KEEP):
        raise DataError(f"lossy must be {DROP} or {KEEP}; found {lossy!r}")
    if most_tokens < 0:
        raise DataError(f"most_tokens must be at least 0 (0: no limit); found {most_tokens}")
    asked_out = removed | asked_out_before(prefix)
    common = _common(tokenizer, sha256_of_all(files), source)
    made_from = {
        "tokenizer": tokenizer.fingerprint,
        "input_sha256": common.input_sha256,
        "by_language": str(by_language),
        "most_tokens": str(most_tokens),
        "lossy": lossy,
        "source": source,
    }
    ready = _matching(prefix, made_from, removed)
    if ready is not None:
        return _report(prefix, ready, tokenizer, reused=True)
    dropped: dict[str, int] = {}
    losses = 0

    def wanted() -> Iterator[Document]:
        for document in read_all(files):
            _check_fields(document)
            if asked_out.names(document.id, document.repository, document.path):
                dropped[REMOVED] = dropped.get(REMOVED, 0) + 1
            else:
                yield document

    with (
        closing(encode_documents(wanted(), tokenizer, lossy == KEEP)) as encoded,
        ShardSetWriter(prefix, common, by_language, most_tokens) as writer,
        progress(f"tokenize {prefix.name}: documents") as advance,
    ):
        for one in encoded:
            losses += one.lossy
            if one.ids.size:
                writer.add(one.document, one.ids, one.content_bytes)
            else:
                dropped[LOSSY] = dropped.get(LOSSY, 0) + 1
            advance(1)
        if not writer.parts:
            why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            raise DataError(f"{files[0]}: holds no documents{f' to keep ({why})' if why else ''}; prepare again")
        shards = writer.publish(made_from, asked_out, dropped, losses)
    return _report(prefix, shards, tokenizer, reused=False)


def _check_fields(document: Document) -> None:
    """Raise DataError unless the fields that are used here are text."""
    fields = ("id", "path", "language", "repository", "kind", "content")
    wrong = [name for name in fields if not isinstance(getattr(document, name), str)]
    if wrong:
        raise DataError(f"document {document.id!r}: {', '.join(wrong)} must be text; prepare again")


def _common(tokenizer: Tokenizer, input_sha256: str, source: str) -> Sidecar:
    """Return a sidecar with what all shards share; the rest is filled in for each."""
    return Sidecar(
        tokenizer=tokenizer.fingerprint,
        input_sha256=input_sha256,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        documents=0,
        tokens=0,
        content_bytes=0,
        language="",
        source=source,
        removed=0,
        bin_sha256="",
        idx_sha256="",
        documents_sha256="",
    )


def _matching(prefix: Path, made_from: dict[str, str], removed: RemovalList) -> ShardSet | None:
    """Return the set at `prefix` if these inputs made it, its shards are intact, and nobody new asked out; or None."""
    shards = read_set(prefix)
    if not shards.finished or shards.made_from != made_from:
        return None
    known = shards.asked_out | asked_out_before(prefix)
    if (known | removed) != known:
        return None
    try:
        for one in shards.prefixes(prefix):
            check_counts(ShardReader(one), read_sidecar(one))
    except DataError:
        return None
    return shards


def _report(prefix: Path, shards: ShardSet, tokenizer: Tokenizer, reused: bool) -> TokenizeReport:
    """Return the user's view of a set."""
    return TokenizeReport(
        prefix=prefix,
        documents=shards.documents,
        tokens=shards.tokens,
        content_bytes=shards.content_bytes,
        vocab_size=tokenizer.vocab_size,
        reused=reused,
        shards=tuple(shards.prefixes(prefix)),
        dropped=shards.dropped,
        lossy=shards.lossy,
    )
