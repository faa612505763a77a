"""Which files are source code, and in which language: by file name, then by extension."""

from __future__ import annotations

from pathlib import PurePath
from types import MappingProxyType

_EXTENSIONS = """
assembly asm s
batchfile bat cmd
c c h
c# cs
c++ cpp cc cxx hpp hh hxx inl
clojure clj cljs
cmake cmake
css css scss less
cuda cu cuh
d d
dart dart
elixir ex exs
elm elm
erlang erl hrl
f# fs fsi fsx
fortran f f90 f95 f03
glsl glsl vert frag
go go
groovy groovy gradle
haskell hs
hcl tf hcl
html html htm
java java
javascript js jsx mjs cjs
json json
julia jl
kotlin kt kts
lisp lisp el
lua lua
makefile mk
markdown md markdown
nix nix
objective-c m mm
ocaml ml mli
pascal pas
perl pl pm t
php php
powershell ps1 psm1
protobuf proto
python py pyi pyx
r r
restructuredtext rst
ruby rb rake
rust rs
scala scala sbt
scheme scm rkt
shell sh bash zsh bats
solidity sol
sql sql
swift swift
tcl tcl
tex tex
toml toml
typescript ts tsx mts
vhdl vhd vhdl
verilog v sv
vue vue
xml xml
yaml yaml yml
zig zig
"""
BY_EXTENSION = MappingProxyType(
    {"." + ending: row.split()[0] for row in _EXTENSIONS.strip().splitlines() for ending in row.split()[1:]}
)
BY_NAME = MappingProxyType(
    {
        "makefile": "makefile",
        "gnumakefile": "makefile",
        "dockerfile": "dockerfile",
        "cmakelists.txt": "cmake",
        "rakefile": "ruby",
        "gemfile": "ruby",
    }
)


def language_of(path: str) -> str | None:
    """Return the language of a file by its name, in lower case, or None when it is not known as code."""
    pure = PurePath(path)
    return BY_NAME.get(pure.name.lower()) or BY_EXTENSION.get(pure.suffix.lower())
