"""PREFIX.json beside a shard: which tokenizer and which input made it, so that neither can be mixed up later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.tombstones import tombstones_path
from megacode.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sidecar:
    """What made a shard: sha256 of tokenizer and input; counts in documents, tokens, and bytes of text.

    `language` of all its documents, empty where they differ; `source`: the name that the caller gave the input;
    `removed`: how many of its documents are tombstones; then the sha256 of PREFIX.bin, .idx and .documents.parquet.
    """

    tokenizer: str
    input_sha256: str
    vocab_size: int
    end_of_text: int
    documents: int
    tokens: int
    content_bytes: int
    language: str
    source: str
    removed: int
    bin_sha256: str
    idx_sha256: str
    documents_sha256: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = str if field.type == "str" else int
            if type(value) is not wanted or (wanted is int and value < 0):
                raise TypeError(f"{field.name} must be a {wanted.__name__}, is {value!r}")


def sidecar_path(prefix: Path) -> Path:
    """Return the sidecar's file name for `prefix`."""
    return prefix.with_name(prefix.name + ".json")


def write_sidecar(prefix: Path, sidecar: Sidecar) -> None:
    """Replace PREFIX.json."""
    write_text(sidecar_path(prefix), json.dumps(asdict(sidecar), indent=2) + "\n")


def read_sidecar(prefix: Path) -> Sidecar:
    """Read PREFIX.json. Raises DataError when it is missing or not what this program writes."""
    file = sidecar_path(prefix)
    if not file.is_file():
        raise DataError(f"{file}: missing; tokenize again to know which tokenizer made this shard")
    try:
        return Sidecar(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not a sidecar of this program ({error}); tokenize again") from error


def open_shard(prefix: Path | str, tokenizer: Tokenizer) -> ShardReader:
    """Open a shard and check that `tokenizer` made it. Raises DataError when the shard or the tokenizer is another."""
    prefix = Path(prefix)
    sidecar = read_sidecar(prefix)
    if sidecar.tokenizer != tokenizer.fingerprint:
        raise DataError(
            f"{prefix}: made with tokenizer {sidecar.tokenizer[:12]}, this run has {tokenizer.fingerprint[:12]}; "
            "use that tokenizer or tokenize again"
        )
    reader = ShardReader(prefix)
    check_counts(reader, sidecar)
    return reader


def check_counts(reader: ShardReader, sidecar: Sidecar) -> None:
    """Raise DataError unless the sidecar is this shard's, by its counts.

    More tombstones than the sidecar counts are an interrupted removal, whose documents are gone all the same.
    """
    prefix = reader.prefix
    if (reader.documents, reader.tokens) != (sidecar.documents, sidecar.tokens):
        raise DataError(
            f"{sidecar_path(prefix)}: counts {sidecar.documents} documents and {sidecar.tokens} tokens, the shard has "
            f"{reader.documents} and {reader.tokens}; tokenize again"
        )
    if reader.removed.size < sidecar.removed:
        raise DataError(
            f"{tombstones_path(prefix)}: lists {reader.removed.size} documents, {sidecar_path(prefix).name} counts "
            f"{sidecar.removed} removed; restore the file from a copy"
        )
