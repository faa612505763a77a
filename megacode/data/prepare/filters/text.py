"""A document as the filters read it: what several of them need is made once, on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from megacode.data.documents import Document
from megacode.data.languages import language_named


@dataclass(frozen=True)
class Text:
    """A document's `content`, its lines, and its name taken apart."""

    document: Document

    @cached_property
    def content(self) -> str:
        return self.document.content

    @cached_property
    def ascii(self) -> bytes:
        """One byte a character; "?" stands for all that is not ASCII."""
        return self.content.encode("ascii", "replace")

    @cached_property
    def lines(self) -> list[str]:
        """Lines as `str.splitlines` has them, without their ends."""
        return self.content.splitlines()

    @cached_property
    def language(self) -> str:
        """The language by our name, whatever its data set calls it."""
        return language_named(self.document.language) or self.document.language.lower()

    @cached_property
    def name(self) -> str:
        """The file's name without its folders, in lower case."""
        return self.document.path.rpartition("/")[2].lower()

    @cached_property
    def ending(self) -> str:
        """What is behind the last dot of the name, or ""."""
        return self.name.rpartition(".")[2] if "." in self.name else ""
