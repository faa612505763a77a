"""The shards that one tokenization makes, one or one a language, cut at a number of tokens; all appear or none.

PREFIX.shards.json lists them with what made them. It is written before the first file is renamed and again when all
are, so that an interrupted run is known, and shards of an earlier run that the new one doesn't have are deleted.
Names: PREFIX, PREFIX-LANGUAGE, PREFIX-00000 or PREFIX-LANGUAGE-00000, all found by the pattern PREFIX*.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from megacode.data.atomic import partial, write_text
from megacode.data.document_files import sha256_of
from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.shards.document_table import DocumentRow, DocumentTableWriter, table_path
from megacode.data.shards.indexed import ShardWriter, bin_path, idx_path
from megacode.data.shards.removal_list import RemovalList
from megacode.data.shards.sidecar import Sidecar, sidecar_path, write_sidecar
from megacode.data.shards.tombstones import read_tombstones, tombstones_path

UNKNOWN_LANGUAGE = "unknown"
NOT_IN_NAMES = re.compile(r"[^a-z0-9+#._-]")


@dataclass(frozen=True)
class ShardSet:
    """What PREFIX.shards.json says: names of the shards, what made them, and what was left out of them.

    `made_from`: tokenizer, input and options by name; `asked_out`: every removal ever asked for here; `dropped`:
    documents by reason; `lossy`: documents with bytes that have no token.
    """

    finished: bool
    shards: tuple[str, ...]
    made_from: dict[str, str]
    asked_out: RemovalList
    documents: int
    tokens: int
    content_bytes: int
    dropped: dict[str, int]
    lossy: int

    def prefixes(self, prefix: Path) -> list[Path]:
        """Return the shards' prefixes beside `prefix`."""
        return [prefix.with_name(name) for name in self.shards]


EMPTY_SET = ShardSet(True, (), {}, RemovalList(), 0, 0, 0, {}, 0)


def set_path(prefix: Path) -> Path:
    """Return the list's file name for `prefix`."""
    return prefix.with_name(prefix.name + ".shards.json")


def read_set(prefix: Path) -> ShardSet:
    """Read PREFIX.shards.json, an empty set when there is none. Raises DataError for a file of another shape."""
    file = set_path(prefix)
    if not file.is_file():
        return EMPTY_SET
    try:
        form = json.loads(file.read_text(encoding="utf-8"))
        names, asked_out = tuple(form.pop("shards")), RemovalList.from_json(form.pop("asked_out"))
        found = ShardSet(shards=names, asked_out=asked_out, **form)
        if not all(isinstance(name, str) and name.startswith(prefix.name) and "/" not in name for name in names):
            raise ValueError(f"shards must be names that begin with {prefix.name}")
        if type(found.finished) is not bool or not isinstance(found.made_from, dict):
            raise TypeError("values of other types")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: not a list of shards of this program ({error}); delete it") from error
    return found


def write_set(prefix: Path, shards: ShardSet) -> None:
    """Replace PREFIX.shards.json."""
    form = {**asdict(shards), "asked_out": shards.asked_out.to_json()}
    write_text(set_path(prefix), json.dumps(form, indent=1) + "\n")


def asked_out_before(prefix: Path) -> RemovalList:
    """Return every removal that the shards at `prefix` remember. Raises DataError when that cannot be read."""
    before = read_set(prefix)
    total = before.asked_out
    for one in {prefix, *before.prefixes(prefix)}:
        total |= read_tombstones(one).asked
    return total


class _Part:
    """One shard being written: tokens, document table, and what its sidecar will say."""

    def __init__(self, prefix: Path, vocab_size: int, language: str) -> None:
        self.prefix, self.language = prefix, language
        self.content_bytes = 0
        self.tokens = ShardWriter(prefix, vocab_size)
        self.table = DocumentTableWriter(prefix)

    def add(self, document: Document, ids: np.ndarray, content_bytes: int) -> None:
        """Append a document, its end-of-text included."""
        self.tokens.add(ids)
        self.content_bytes += content_bytes
        if document.language != self.language:
            self.language = ""
        place = (document.id, document.repository, document.path, document.language, document.kind)
        self.table.add(DocumentRow(*place, ids.size, content_bytes))

    def finish(self) -> None:
        """Complete the files under their temporary names."""
        self.tokens.finish()
        self.table.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self.tokens.discard()
        self.table.discard()

    def publish(self, common: Sidecar) -> None:
        """Rename the finished files and write the sidecar, `common` with the shard's own values."""
        sidecar_path(self.prefix).unlink(missing_ok=True)
        own = replace(
            common,
            documents=self.tokens.documents,
            tokens=self.tokens.tokens,
            content_bytes=self.content_bytes,
            language=self.language,
            bin_sha256=self.tokens.bin_sha256,
            idx_sha256=sha256_of(partial(idx_path(self.prefix))),
            documents_sha256=sha256_of(partial(self.table.path)),
        )
        self.tokens.publish()
        partial(self.table.path).replace(self.table.path)
        write_sidecar(self.prefix, own)


class ShardSetWriter:
    """Write a set of shards; all of them appear when the `with` block ends well, and none when it does not."""

    def __init__(self, prefix: Path, common: Sidecar, by_language: bool, most_tokens: int) -> None:
        """`common`: the sidecar's values that all shards share; `most_tokens` in a shard, 0 for any number."""
        self._prefix, self._common = prefix, common
        self._by_language, self._most_tokens = by_language, most_tokens
        self._open: dict[str, _Part] = {}
        self._full: list[_Part] = []
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    @property
    def parts(self) -> list[_Part]:
        """All shards so far, by name."""
        return sorted([*self._full, *self._open.values()], key=lambda part: part.prefix.name)

    def add(self, document: Document, ids: np.ndarray, content_bytes: int) -> None:
        """Append a document of `content_bytes` bytes to its shard; `ids` [n] end in end-of-text."""
        language = document.language if self._by_language else ""
        part = self._open.get(language)
        if part is not None and self._most_tokens and part.tokens.tokens + ids.size > self._most_tokens:
            part.finish()
            self._full.append(self._open.pop(language))
            part = None
        if part is None:
            part = self._open[language] = _Part(self._name(language), self._common.vocab_size, document.language)
        part.add(document, ids, content_bytes)

    def __enter__(self) -> ShardSetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for part in self.parts:
                part.discard()

    def publish(
        self, made_from: dict[str, str], asked_out: RemovalList, dropped: dict[str, int], lossy: int
    ) -> ShardSet:
        """Complete every shard, rename them all, delete those of an earlier set that are no more."""
        for part in self._open.values():
            part.finish()
        before = read_set(self._prefix)
        parts = self.parts
        new = ShardSet(
            finished=True,
            shards=tuple(part.prefix.name for part in parts),
            made_from=made_from,
            asked_out=asked_out,
            documents=sum(part.tokens.documents for part in parts),
            tokens=sum(part.tokens.tokens for part in parts),
            content_bytes=sum(part.content_bytes for part in parts),
            dropped=dropped,
            lossy=lossy,
        )
        either = tuple(sorted({*before.shards, *new.shards}))
        write_set(self._prefix, replace(new, finished=False, shards=either))
        for part in parts:
            part.publish(self._common)
        _delete(self._prefix.with_name(name) for name in before.shards if name not in new.shards)
        write_set(self._prefix, new)
        return new

    def _name(self, language: str) -> Path:
        """Return the prefix of the next shard of `language`. Raises DataError when two languages share a name."""
        name = self._prefix.name
        if self._by_language:
            shown = NOT_IN_NAMES.sub("_", language.lower()) or UNKNOWN_LANGUAGE
            if self._names.setdefault(shown, language) != language:
                raise DataError(
                    f"languages {self._names[shown]!r} and {language!r} would share the shard {name}-{shown}; "
                    "rename one in the documents"
                )
            name += f"-{shown}"
        if self._most_tokens:
            number = self._counts.get(language, 0)
            self._counts[language] = number + 1
            name += f"-{number:05d}"
        return self._prefix.with_name(name)


def _delete(prefixes: Iterable[Path]) -> None:
    """Delete whole shards, the index first: without it a shard is found by nobody."""
    for prefix in prefixes:
        for path in (idx_path(prefix), sidecar_path(prefix), bin_path(prefix), table_path(prefix)):
            path.unlink(missing_ok=True)
        tombstones_path(prefix).unlink(missing_ok=True)
