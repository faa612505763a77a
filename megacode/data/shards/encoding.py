"""Documents to token ids at the speed of the tokenizers library: a pipeline of chunks, kept full, in order.

The library encodes on all cores without Python's lock. Two threads hand it chunks, so that it has a next one when the
last long text of a chunk keeps one core, and meanwhile this thread reads and parses the chunks after, and writes the
ones before. Memory is that of a few chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.tokenizers.tokenizer import Tokenizer

CHUNK_CHARACTERS = 2_000_000
AT_ONCE = 2
WAITING = 1


class Encoded(NamedTuple):
    """A document's ids int32 [n], end-of-text last, and the bytes of its text; `lossy`: some bytes had no token."""

    document: Document
    ids: np.ndarray
    content_bytes: int
    lossy: bool


def encode_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, keep_lossy: bool
) -> Generator[Encoded, None, None]:
    """Yield the documents encoded, in order; a lossy one without ids unless `keep_lossy`.

    Raises DataError naming a document with a special token that the tokenizer doesn't have.
    """
    waiting: deque[Future[list[Encoded]]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="encode") as pool:
        try:
            for chunk in _chunks(documents):
                waiting.append(pool.submit(encode_chunk, chunk, tokenizer, keep_lossy))
                if len(waiting) > AT_ONCE + WAITING:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def encode_chunk(chunk: Sequence[Document], tokenizer: Tokenizer, keep_lossy: bool) -> list[Encoded]:
    """Return the documents encoded, as `encode_documents`."""
    specials = [[_special_id(special, document, tokenizer) for special, _ in document.pieces] for document in chunk]
    lossy = [any(tokenizer.loses(text) for _, text in document.pieces) for document in chunk]
    wanted = [keep_lossy or not loses for loses in lossy]
    texts = [text for document, take in zip(chunk, wanted, strict=True) if take for _, text in document.pieces]
    rows = iter(tokenizer.encode_batch(texts, keep_lossy=keep_lossy))
    found = []
    for document, own, take, loses in zip(chunk, specials, wanted, lossy, strict=True):
        parts: list[list[int]] = []
        for special in own if take else ():
            parts += [special, next(rows)]
        parts.append([tokenizer.end_of_text])
        ids = np.fromiter(chain.from_iterable(parts), dtype=np.int32, count=sum(map(len, parts)))
        content_bytes = len(document.content.encode("utf-8", "replace"))
        found.append(Encoded(document, ids if take else ids[:0], content_bytes, loses))
    return found


def _special_id(special: str, document: Document, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that a part's special token becomes: one, or none for no token."""
    if not special:
        return []
    token = tokenizer.special.get(special)
    if token is None:
        raise DataError(
            f"document {document.id} ({document.path}): has the special token {special}, the tokenizer has not; "
            "use the tokenizer of the family that the documents were prepared for"
        )
    return [token]


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield the documents in lists of about CHUNK_CHARACTERS characters."""
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.content)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
