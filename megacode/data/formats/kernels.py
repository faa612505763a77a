"""The language of a notebook's kernel, and how that language writes a comment line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_ALIASES = """
python: ipython pyspark pyspark3 sage sagemath xpython xeus-python conda python2 python3 pypy
r: ir irkernel xr
julia: ijulia
c++: xcpp xcpp11 xcpp14 xcpp17 xcpp20 cpp c++11 c++14 c++17 c++20
c#: csharp .net-csharp
f#: fsharp .net-fsharp ifsharp
powershell: .net-powershell pwsh
javascript: ijavascript jslab nodejs node js
typescript: itypescript tslab ts
shell: bash sh zsh
ruby: iruby
scala: almond spylon-kernel
haskell: ihaskell
go: gophernotes gonb golang
rust: evcxr
java: ijava
kotlin: ikotlin
octave: ioctave xoctave
"""
_COMMENTS = """
# python r julia shell ruby perl powershell elixir tcl cython coconut nim gnuplot
// c c++ c# f# java javascript typescript scala kotlin go rust swift groovy dart php q# d cuda
-- haskell lua sql elm ada
% matlab octave prolog erlang
; clojure scheme lisp racket
"""


def _rows(table: str, sign: str) -> list[tuple[str, list[str]]]:
    """Return (first word, the other words) of each line of a table."""
    lines = [line.replace(sign, " ", 1).split() if sign else line.split() for line in table.strip().splitlines()]
    return [(words[0], words[1:]) for words in lines]


LANGUAGES = MappingProxyType({alias: language for language, aliases in _rows(_ALIASES, ":") for alias in aliases})
COMMENTS = MappingProxyType({language: sign for sign, languages in _rows(_COMMENTS, "") for language in languages})


def language_of_kernel(metadata: Any) -> str:
    """Return the language that a notebook's metadata names, in lower case, or the empty string when it names none.

    `language_info.name` decides, then the kernel's language, then the kernel's name without its version.
    """
    if not isinstance(metadata, Mapping):
        return ""
    info, kernel = (metadata.get(key) for key in ("language_info", "kernelspec"))
    info, kernel = (part if isinstance(part, Mapping) else {} for part in (info, kernel))
    for said in (info.get("name"), kernel.get("language"), metadata.get("language"), kernel.get("name")):
        if isinstance(said, str) and said.strip():
            return _plain(said)
    return ""


def _plain(said: str) -> str:
    """Return a language by its usual name: aliases resolved, a version at the end left out."""
    name = said.strip().lower()
    unversioned = re.sub(r"[-_ ]?v?\d+(?:\.\d+)*$", "", name) or name
    for form in (name, unversioned):
        if form in LANGUAGES:
            return LANGUAGES[form]
    return unversioned
