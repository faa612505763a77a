"""Middles that are whole parts of the program: the cuts are moved out to the nearest run of siblings in its syntax.

Where both of two uniform cuts fall, the smallest node of the tree that holds them is looked up, and the middle becomes
its children that the cuts touch (the aligned spans of Gong et al., AST-FIM, arXiv 2506.00204, section 3). Languages
without a grammar here, and code that does not parse there, keep the two uniform cuts.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from megacode.data.errors import DataError
from megacode.data.infill.cuts import Cut
from megacode.data.languages.files import language_of
from megacode.data.tokenizers.tokenizer import Tokenizer

# language -> (module of the grammar, its function)
GRAMMARS = MappingProxyType(
    {
        "c": ("tree_sitter_c", "language"),
        "c++": ("tree_sitter_cpp", "language"),
        "cuda": ("tree_sitter_cpp", "language"),
        "go": ("tree_sitter_go", "language"),
        "java": ("tree_sitter_java", "language"),
        "javascript": ("tree_sitter_javascript", "language"),
        "python": ("tree_sitter_python", "language"),
        "ruby": ("tree_sitter_ruby", "language"),
        "rust": ("tree_sitter_rust", "language"),
        "typescript": ("tree_sitter_typescript", "language_typescript"),
    }
)


class SyntaxCuts:
    """Widens cuts by the syntax of `language`, or of the file whose path is given."""

    def __init__(self, language: str) -> None:
        """Raises DataError when the parser library is not installed."""
        try:
            import_module("tree_sitter")
        except ImportError:
            raise DataError(
                'data.fim.cut = "syntax" needs tree-sitter, which is not installed; pip install megacode[syntax], '
                'or set data.fim.cut = "characters"'
            ) from None
        self._language = language

    def widen(self, low: Cut, high: Cut, piece: np.ndarray, tokenizer: Tokenizer, path: str) -> tuple[Cut, Cut]:
        """Return the cuts of a middle of whole syntax that holds the one between `low` and `high`."""
        grammar = _grammar(language_of(path) or self._language if path else self._language)
        if grammar is None:
            return low, high
        parser = import_module("tree_sitter").Parser(grammar)  # cheap, and no two threads may share one
        ends = np.cumsum(tokenizer.table.lengths[piece])
        text = tokenizer.table.gather(piece).tobytes()
        span = _siblings(parser.parse(text).root_node, _byte(low, ends), _byte(high, ends))
        if span is None:
            return low, high
        return _cut(span[0], ends), _cut(span[1], ends)


def _siblings(node: Any, low: int, high: int) -> tuple[int, int] | None:
    """Return the bytes of the children that `low` .. `high` touches, of the smallest node that holds them all."""
    found = None
    while node is not None:
        touched = [child for child in node.children if child.end_byte > low and child.start_byte < max(high, low + 1)]
        if not touched:
            break
        found = touched[0].start_byte, touched[-1].end_byte
        holds = len(touched) == 1 and found[0] <= low and high <= found[1]
        node = touched[0] if holds else None
    return found


def _byte(cut: Cut, ends: np.ndarray) -> int:
    """Return the byte of a piece at which a cut is; `ends`: where each of its tokens ends."""
    return (int(ends[cut.token - 1]) if cut.token else 0) + cut.offset


def _cut(byte: int, ends: np.ndarray) -> Cut:
    """Return the cut at a byte."""
    token = int(np.searchsorted(ends, byte, side="right"))
    return Cut(token, byte - (int(ends[token - 1]) if token else 0))


@cache
def _grammar(language: str) -> Any:
    """Return the grammar of a language, or None where there is none."""
    if language not in GRAMMARS:
        return None
    module, function = GRAMMARS[language]
    try:
        return import_module("tree_sitter").Language(getattr(import_module(module), function)())
    except ImportError:
        return None
