"""Where a document's code is: what lies between special tokens, less the metadata, as the formats write it.

Special tokens are never decoded and never crossed. What may be rearranged is code: a document without structure, the
files of a repository, the text after StarCoder's metadata. Names, paths and star counts (the rest of the line after
their token) are not; neither are issues, commits, notebooks' cells and pull requests, whose parts have an order of
their own (StarCoder2, arXiv 2402.19173, section 5.1: "to the source code").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megacode.data.tokenizers.sentinels import END_OF_TEXT
from megacode.data.tokenizers.tokenizer import Tokenizer

# After these comes a line of metadata and then code; StarCoder's, arXiv 2305.06161, section 3.
HEADS = ("<reponame>", "<filename>", "<gh_stars>")
CODE = ("<jupyter_script>", END_OF_TEXT)
REPOSITORY = "<repo_name>"
FILE = "<file_sep>"


class Piece(NamedTuple):
    """Code at tokens `start` .. `stop` of a document; the token at `stop` is special."""

    start: int
    stop: int


class PieceFinder:
    """Finds the code of one tokenizer's documents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = {tokenizer.token_bytes(token).decode(): token for token in tokenizer.special_ids}
        table = tokenizer.table
        self._special = table.special
        self._heads = frozenset(names[name] for name in HEADS if name in names)
        self._code = frozenset(names[name] for name in CODE if name in names)
        self._repository, self._file = names.get(REPOSITORY, -1), names.get(FILE, -1)
        newlines = np.flatnonzero(table.blob == ord("\n"))
        self._has_newline = np.zeros(table.lengths.size, dtype=bool)
        self._has_newline[np.searchsorted(table.offsets, newlines, side="right") - 1] = True

    def is_repository(self, tokens: np.ndarray) -> bool:
        """Return whether a document [n], n >= 1, is a repository's files."""
        return int(tokens[0]) in (self._repository, self._file)

    def specials(self, tokens: np.ndarray) -> np.ndarray:
        """Return where special tokens are in a document [n], ascending."""
        return np.flatnonzero(self._special[tokens])

    def pieces(self, tokens: np.ndarray, specials: np.ndarray) -> list[Piece]:
        """Return the code of a document [n] that ends in a special token; pieces have at least one token."""
        has_paths = int(tokens[0]) == self._repository
        found, start, before = [], 0, None
        for border in specials.tolist():
            first = self._code_start(tokens, start, border, before, has_paths)
            if first < border:
                found.append(Piece(first, border))
            start, before = border + 1, int(tokens[border])
        return found

    def _code_start(self, tokens: np.ndarray, start: int, stop: int, before: int | None, has_paths: bool) -> int:
        """Return where the code of tokens `start` .. `stop` begins, behind the special token `before`; `stop`: none."""
        if before is None or before in self._code or (before == self._file and not has_paths):
            return start
        if before not in self._heads and before != self._file:
            return stop
        line_ends = np.flatnonzero(self._has_newline[tokens[start:stop]])
        return start + int(line_ends[0]) + 1 if line_ends.size else stop
