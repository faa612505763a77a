"""PREFIX.json beside a shard: which tokenizer and which input made it, so that neither can be mixed up later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.indexed import ShardReader
from megacode.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sidecar:
    """What made a shard: sha256 of tokenizer and input, counts in documents, tokens, and bytes of text."""

    tokenizer: str
    input_sha256: str
    vocab_size: int
    end_of_text: int
    documents: int
    tokens: int
    content_bytes: int


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
    if (reader.documents, reader.tokens) != (sidecar.documents, sidecar.tokens):
        raise DataError(
            f"{prefix}: PREFIX.json counts {sidecar.documents} documents and {sidecar.tokens} tokens, the shard has "
            f"{reader.documents} and {reader.tokens}; tokenize again"
        )
    return reader
