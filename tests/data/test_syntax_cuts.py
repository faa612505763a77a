"""With `cut = "syntax"` the middle is a run of whole siblings of the syntax tree, in every language with a grammar."""

from __future__ import annotations

import numpy as np
import pytest

from megacode.data.errors import DataError
from megacode.data.infill import PSM, FimKey, FimPolicy, Infiller
from megacode.data.infill.invert import arranged_pieces
from megacode.data.infill.syntax import GRAMMARS, SyntaxCuts
from megacode.data.tokenizers.tokenizer import Tokenizer

POLICY = FimPolicy(rate=1.0, spm_rate=0.0, by_syntax=True)
PROGRAMS = {
    "python": "def f(x):\n    if x:\n        return [x, x + 1]\n    return None\n\n\nclass A:\n    b = {1: 'ü'}\n" * 4,
    "c": "int f(int x) {\n  if (x > 1) { return x * 2; }\n  return g(x, 1);\n}\n" * 6,
    "c++": "template <class T> T f(T x) {\n  auto y = [x](int z) { return x + z; };\n  return y(1);\n}\n" * 6,
    "cuda": "__global__ void f(float *x) {\n  x[threadIdx.x] = 2.0f * x[threadIdx.x];\n}\n" * 6,
    "go": "func f(x int) int {\n\tif x > 1 {\n\t\treturn x * 2\n\t}\n\treturn g(x, 1)\n}\n" * 6,
    "java": "class A {\n  int f(int x) {\n    if (x > 1) { return x * 2; }\n    return g(x, 1);\n  }\n}\n" * 5,
    "javascript": "const f = (x) => {\n  if (x) { return [x, ...y]; }\n  return { a: 1 };\n};\n" * 6,
    "ruby": "def f(x)\n  if x > 1\n    return [x, 2]\n  end\n  { a: 1 }\nend\n" * 6,
    "rust": "fn f(x: u32) -> Vec<u32> {\n    if x > 1 { return vec![x]; }\n    g(x, 1)\n}\n" * 6,
    "typescript": "function f(x: number): string[] {\n  if (x > 1) { return ['a']; }\n  return [`${x}`];\n}\n" * 6,
}


@pytest.mark.parametrize("language", sorted(GRAMMARS))
def test_the_rest_and_the_middle_are_whole_syntax(tokenizer: Tokenizer, language: str) -> None:
    """Every middle begins and ends where nodes of the tree begin and end, under one parent."""
    from importlib import import_module

    module, function = GRAMMARS[language]
    tree_sitter = import_module("tree_sitter")
    parser = tree_sitter.Parser(tree_sitter.Language(getattr(import_module(module), function)()))
    text = PROGRAMS[language].encode()
    tokens = np.array([*tokenizer.encode(PROGRAMS[language]), tokenizer.end_of_text])
    spans = set()
    stack = [parser.parse(text).root_node]
    while stack:
        node = stack.pop()
        stack += node.children
        starts, ends = [child.start_byte for child in node.children], [child.end_byte for child in node.children]
        spans |= {(start, end) for i, start in enumerate(starts) for end in ends[i:]}
    infiller, found = Infiller(POLICY, tokenizer, language), 0
    for number in range(60):
        result = infiller.apply(tokens, FimKey(1, 0, number))
        if result.orders == (PSM,):
            (piece,) = arranged_pieces(result.tokens, tokenizer)
            prefix, middle = (tokenizer.decode_bytes(part.tolist()) for part in (piece.prefix, piece.middle))
            assert text.startswith(prefix + middle)
            assert (len(prefix), len(prefix) + len(middle)) in spans, middle
            found += 1
    assert found > 20


def test_a_repositorys_files_are_parsed_by_their_names(tokenizer: Tokenizer) -> None:
    file = [6, *tokenizer.encode("a/b.py\n" + PROGRAMS["python"])]
    repository = next(token for token in tokenizer.special_ids if tokenizer.token_bytes(token) == b"<repo_name>")
    tokens = np.array([repository, *tokenizer.encode("me/mine"), *file, *file, 0])
    policy = FimPolicy(rate=1.0, spm_rate=0.0, repository_rate=1.0, by_syntax=True)
    with_names, without = Infiller(policy, tokenizer), Infiller(FimPolicy(1.0, 0.0, 2, 1.0), tokenizer)
    differ = [
        not np.array_equal(
            with_names.apply(tokens, FimKey(1, 0, n)).tokens, without.apply(tokens, FimKey(1, 0, n)).tokens
        )
        for n in range(20)
    ]
    assert sum(differ) > 15


def test_other_languages_and_no_program_keep_their_cuts(tokenizer: Tokenizer) -> None:
    tokens = np.array([*tokenizer.encode("no program ))) at all (((\n" * 20), 0])
    for language in ("", "cobol"):
        for number in range(20):
            ours, plain = (
                Infiller(policy, tokenizer, language).apply(tokens, FimKey(1, 0, number)).tokens
                for policy in (POLICY, FimPolicy(1.0, 0.0))
            )
            assert np.array_equal(ours, plain)


def test_without_the_parser_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(DataError, match=r"pip install megacode\[syntax\]"):
        SyntaxCuts("python")
