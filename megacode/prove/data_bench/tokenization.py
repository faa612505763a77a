"""Tokenization against the bare tokenizers library: the same texts, cores and tokenizer, in turns.

Bare is the library's fastest call on texts that are in memory already, its result thrown away. Ours starts from the
file and ends with shards on the disk: unpacking, parsing, encoding, checking, hashing, writing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from megacode.data.document_files import Documents, document_files, read_all, texts_of
from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.byte_level import ByteLevelEngine
from megacode.data.tokenizers.tokenizer import Tokenizer

BARE_CHARACTERS = 16_000_000  # in one call: the library keeps some hundred bytes for each token until it returns


def tokenize_rates(documents: Documents, tokenizer: Tokenizer, rounds: int = 3) -> dict[str, float]:
    """Return wall-clock rates of `rounds` turns of each, medians: `bare` and `ours` in MB of text a second.

    Also `ratio` ours / bare (the median of each turn's own), `lowest` and `highest` of the ratios, `cpu_ratio`: the
    same by CPU time, which other programs on the machine disturb less; `megabytes` of text, `tokens`.
    Raises DataError for a tokenizer of another library.
    """
    engine = tokenizer.engine
    if not isinstance(engine, ByteLevelEngine):
        raise DataError("the comparison is with the tokenizers library; give a tokenizer.json")
    files = document_files(documents)
    texts = [text for document in read_all(files) for text in texts_of(document)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    bare, ours, tokens = [], [], 0

    def encode() -> None:
        for batch in _batches(texts):
            engine.backend.encode_batch_fast(batch, add_special_tokens=False)

    for _ in range(rounds):
        bare.append(_timed(encode))
        with tempfile.TemporaryDirectory(prefix="megacode-tokenize-") as folder:
            shard = Path(folder) / "shard"
            ours.append(_timed(lambda shard=shard: tokenize(files, tokenizer, shard)))
            tokens = ShardReader(shard).tokens
    turns = list(zip(bare, ours, strict=True))
    ratios = [one.wall / other.wall for one, other in turns]
    return {
        "megabytes": megabytes,
        "tokens": tokens,
        "bare": megabytes / statistics.median(one.wall for one in bare),
        "ours": megabytes / statistics.median(one.wall for one in ours),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "cpu_ratio": statistics.median(one.cpu / other.cpu for one, other in turns),
    }


class Seconds(NamedTuple):
    """How long something took, on the wall and summed over this process's cores."""

    wall: float
    cpu: float


def _timed(work: Callable[[], object]) -> Seconds:
    """Return how long `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of about BARE_CHARACTERS characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BARE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
