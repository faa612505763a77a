"""Documents on disk: one JSON object a line, compressed with zstandard; fields that say nothing are left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

import zstandard

from megacode.data.atomic import replacing
from megacode.data.compressed import lines
from megacode.data.errors import DataError

COMPRESSION_LEVEL = 3


@dataclass(frozen=True)
class Document:
    """One text to train on, and where it is from.

    `id` as given, else a hash of `content`; `path` for people; `language` in lower case; `stars` of the repository;
    `date` of the file's last commit, ISO 8601. `kind`: code, issue, commit, notebook or repository.
    `parts`, where the text has structure: (special token or "", text that follows it) in order, and `content` is then
    the texts one behind the other. What is spelled like a special token inside a text stays text.
    """

    id: str
    path: str
    language: str
    content: str
    repository: str = ""
    licenses: tuple[str, ...] = ()
    stars: int = 0
    date: str = ""
    kind: str = "code"
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """(special token or "", text after it): `parts`, or the content alone."""
        return self.parts or (("", self.content),)


_DEFAULTS = MappingProxyType({field.name: field.default for field in fields(Document)})


def with_parts(document: Document, parts: Sequence[tuple[str, str]]) -> Document:
    """Return `document` made of `parts`, its content their texts one behind the other."""
    return replace(document, parts=tuple(parts), content="".join(text for _, text in parts))


def to_json(document: Document) -> str:
    """Return the line that stands for `document`: what equals its default is left out, and parts stand for content."""
    form = {key: value for key, value in asdict(document).items() if value != _DEFAULTS[key]}
    if document.parts:
        del form["content"]
    return json.dumps(form, ensure_ascii=False)


def from_json(line: bytes | str) -> Document:
    """Return the document of a line of `to_json`. Raises ValueError, TypeError or KeyError for anything else."""
    form = json.loads(line)
    if not isinstance(form, dict):
        raise TypeError(f"must be an object, is {type(form).__name__}")
    parts = tuple((special, text) for special, text in form.pop("parts", ()))
    content = "".join(text for _, text in parts) if parts else form.pop("content")
    document = Document(content=content, parts=parts, licenses=tuple(form.pop("licenses", ())), **form)
    texts = [document.id, document.path, document.language, document.content, document.repository, document.date]
    texts += [document.kind, *document.licenses, *(special for special, _ in parts)]
    if not all(isinstance(text, str) for text in texts) or type(document.stars) is not int:
        raise TypeError("every field must be text, and stars a whole number")
    return document


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Replace `path` by `documents`; same documents, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).stream_writer(file) as out:
        for document in documents:
            out.write(to_json(document).encode() + b"\n")


def read_documents(path: Path | str) -> Iterator[Document]:
    """Yield the documents of `path` in order. Raises DataError when it is missing, cut short or another format."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare the data first")
    for number, line in enumerate(lines(path), start=1):
        try:
            yield from_json(line)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: not a prepared document ({error}); prepare again") from error
