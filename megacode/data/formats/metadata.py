"""StarCoder's file with metadata: where a file is from, told in front of its code, each of three facts at random.

    <reponame>R<filename>F<gh_stars>S newline code

Each fact is there with probability 0.2, drawn apart from the others; the newline only behind at least one. So most
files are plain, and a prompt may name any of the three (arXiv 2305.06161, section 5.1; add_content_with_meta.py of
bigcode-dataset).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from megacode.data.documents import Document, with_parts
from megacode.data.draws import METADATA, happens
from megacode.data.errors import DataError
from megacode.data.formats.keyed import words_for


@dataclass(frozen=True)
class MetadataRates:
    """How often each fact stands in front of a file, in [0, 1]. Raises DataError for anything else."""

    repository: float = 0.2
    path: float = 0.2
    stars: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if not 0.0 <= rate <= 1.0:
                raise DataError(f"the metadata rate of {field.name} must be in [0, 1]; found {rate}")


RATES = MetadataRates()


def with_metadata(document: Document, seed: int, rates: MetadataRates = RATES) -> Document:
    """Return the document with the facts that (seed, document id) draws; without any, the document itself.

    A fact that is not known is never told: no repository, then neither its name nor its stars. A document that has
    parts is formatted already and stays.
    """
    if document.parts:
        return document
    drawn = words_for(seed, METADATA, document.id, 3)
    facts = []
    if document.repository and happens(drawn[0], rates.repository):
        facts.append(("<reponame>", document.repository))
    if document.path and happens(drawn[1], rates.path):
        facts.append(("<filename>", document.path))
    if document.repository and happens(drawn[2], rates.stars):
        facts.append(("<gh_stars>", stars_bin(document.stars)))
    if not facts:
        return document
    special, text = facts[-1]
    return with_parts(document, [*facts[:-1], (special, f"{text}\n{document.content}")])


def stars_bin(stars: int) -> str:
    """Return the bin of a repository's stars. A border belongs to the bin below it: 10 is "1-10", 1000 "100-1000"."""
    if stars <= 0:
        return "0"
    if stars <= 10:
        return "1-10"
    if stars <= 100:
        return "10-100"
    return "100-1000" if stars <= 1000 else "1000+"
