"""Languages of files: by name, by ending, by what a file says of itself, and by its looks where endings are shared."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.languages import LANGUAGES, language_named, language_of
from megacode.data.languages.content import AMBIGUOUS, SIGNS
from megacode.data.languages.tables import ALIASES, BY_ENDING, BY_INTERPRETER, BY_NAME

# The languages of StarCoder's training data as its folders are called, and the ending that most of their files have.
STARCODER = """
ada adb|agda agda|alloy als|antlr g4|applescript applescript|assembly asm|augeas aug|awk awk|batchfile bat|
bluespec bsv|c c|c-sharp cs|clojure clj|cmake cmake|coffeescript coffee|common-lisp lisp|cpp cpp|css css|cuda cu|
dart dart|dockerfile dockerfile|elixir ex|elm elm|emacs-lisp el|erlang erl|f-sharp fs|fortran f90|glsl glsl|go go|
groovy groovy|haskell hs|html html|idris idr|isabelle thy|java java|java-server-pages jsp|javascript js|json json|
julia jl|kotlin kt|lean lean|literate-agda lagda|literate-coffeescript litcoffee|literate-haskell lhs|lua lua|
makefile mk|maple mpl|markdown md|mathematica nb|matlab matlab|ocaml ml|pascal pas|perl pl|php php|powershell ps1|
prolog prolog|protocol-buffer proto|python py|r r|racket rkt|restructuredtext rst|rmarkdown rmd|ruby rb|rust rs|
sas sas|scala scala|scheme scm|shell sh|smalltalk st|solidity sol|sparql rq|sql sql|stan stan|standard-ml sml|
stata do|systemverilog sv|tcl tcl|tcsh csh|tex tex|thrift thrift|typescript ts|verilog v|vhdl vhd|visual-basic vb|
xslt xslt|yacc y|yaml yaml|zig zig
"""


def test_the_languages_of_starcoder_are_known_by_their_names_and_endings() -> None:
    rows = [row.split() for row in STARCODER.replace("\n", "").split("|")]
    assert len(rows) == len({name for name, _ in rows}) == 88
    for name, ending in rows:
        assert language_of(f"a/b.{ending}") == language_named(name) is not None, name


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("A.CPP", "c++"),
        ("x.d.ts", "typescript"),
        ("a.b/c", None),
        ("README", None),
        ("a.png", None),
        ("", None),
        ("/", None),
        ("a/.py", None),
        ("config.h.in", "c"),
        ("a.in", None),
        (".in", None),
        ("Makefile", "makefile"),
        ("sub/GNUmakefile", "makefile"),
        ("Makefile.am", "makefile"),
        ("CMakeLists.txt", "cmake"),
        ("notes.txt", "text"),
        ("Dockerfile", "dockerfile"),
        ("Dockerfile.dev", "dockerfile"),
        ("dev.Dockerfile", "dockerfile"),
        ("BUILD", "starlark"),
        ("build", None),
        ("BUILD.bazel", "starlark"),
        ("Jenkinsfile", "groovy"),
        ("Rakefile", "ruby"),
        ("Gemfile", "ruby"),
        ("Vagrantfile", "ruby"),
        ("home/.bashrc", "shell"),
        (".zshrc", "shell"),
        (".vimrc", "vim script"),
        ("meson.build", "meson"),
        ("x.1", None),
    ],
)
def test_names_and_endings(path: str, language: str | None) -> None:
    assert language_of(path) == language
    assert language_of(path, "") == language


@pytest.mark.parametrize(
    ("path", "content", "language"),
    [
        ("a.h", "int f(void);\n", "c"),
        ("a.h", "/* class A */\nstruct a { int x; };\n#include <stdio.h>\n", "c"),
        ("a.h", "#pragma once\nnamespace a {\n}\n", "c++"),
        ("a.h", "#include <vector>\n", "c++"),
        ("a.h", "template <typename T>\nT f(T);\n", "c++"),
        ("a.h", "int f(std::string x);\n", "c++"),
        ("a.h", "#import <Foundation/Foundation.h>\n", "objective-c"),
        ("a.h", "@class A;\n", "objective-c"),
        ("a.m", "#import <A.h>\n@implementation A\n@end\n", "objective-c"),
        ("a.m", "function y = f(x)\n  y = x + 1;\nend\n", "matlab"),
        ("a.m", "% plots\nx = 1:10;\n", "matlab"),
        ("a.m", ":- module hello.\n:- interface.\n", "mercury"),
        ("a.m", "(* Package *)\nBeginPackage[\"A`\"]\n", "mathematica"),
        ("a.pl", "use strict;\nmy $x = 1;\n", "perl"),
        ("a.pl", ":- module(a, [b/1]).\nb(X) :- c(X).\n", "prolog"),
        ("a.pl", "parent(ann, bob).\n", "prolog"),
        ("a.pl", "#!/usr/bin/perl -w\n1;\n", "perl"),
        ("a.pl", "#!/usr/bin/env swipl\n1;\n", "prolog"),
        ("a.v", "module a(input b);\nassign c = b;\nendmodule\n", "verilog"),
        ("a.v", "Require Import List.\nTheorem a : True.\nProof. auto. Qed.\n", "coq"),
        ("a.v", "module main\n\nfn main() {\n}\n", "verilog"),
        ("a.ts", "export const a = 1;\n", "typescript"),
        ("a.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS>\n<TS version="2.1">\n', "xml"),
        ("a.r", "x <- c(1, 2)\n", "r"),
        ("a.r", "REBOL [Title: {a}]\n", "rebol"),
        ("a.t", "use Test::More;\nok(1);\n", "perl"),
        ("a.t", "use v6;\n", "raku"),
        ("a.t", "var x : int\nput \"a\"\n", "turing"),
        ("a.fs", "module A\nlet x = 1\n", "f#"),
        ("a.fs", "#version 330\nvoid main() {}\n", "glsl"),
        ("a.fs", ": square dup * ;\n", "forth"),
        ("a.cls", "\\NeedsTeXFormat{LaTeX2e}\n", "tex"),
        ("a.cls", "VERSION 1.0 CLASS\nAttribute VB_Name = \"A\"\n", "visual basic"),
        ("a.cls", "public with sharing class A {\n}\n", "apex"),
        ("a.sql", "SELECT 1;\n", "sql"),
        ("a.sql", "CREATE OR REPLACE PACKAGE BODY a IS\n", "plsql"),
        ("a.sql", "SELECT 1\nGO\n", "tsql"),
        ("a.sql", "CREATE FUNCTION a() RETURNS int AS $$ BEGIN END $$ LANGUAGE plpgsql;\n", "plpgsql"),
        ("a.d", "import std.stdio;\n", "d"),
        ("a.d", "a.o: a.c a.h\n", "makefile"),
        ("a.pro", "QT += core\n", "qmake"),
        ("a.inc", "<?php echo 1;\n", "php"),
        ("a.inc", "#define A 1\n", "c++"),
        ("a.rs", "fn main() {}\n", "rust"),
        ("a.f", "      PROGRAM A\n      END\n", "fortran"),
        ("a.1", ".TH A 1\n.SH NAME\n", "roff"),
        ("release.1", "fixed it\n", None),
    ],
)  # fmt: skip
def test_content_decides_where_endings_are_shared(path: str, content: str, language: str | None) -> None:
    assert language_of(path, content) == language


@pytest.mark.parametrize(
    ("first", "language"),
    [
        ("#!/usr/bin/env python3", "python"),
        ("#! /usr/local/bin/python3.11 -u", "python"),
        ("#!/usr/bin/env -S LANG=C uv run --script", "python"),
        ("#!/bin/sh", "shell"),
        ("#!/usr/bin/env node", "javascript"),
        ("#!/usr/bin/Rscript", "r"),
        ("#!/usr/bin/perl5.30.0", "perl"),
        ("#!/usr/bin/unknown", None),
        ("#!/usr/bin/env", None),
        ("#!", None),
        (" #!/bin/sh", None),
        ("/bin/sh", None),
    ],
)
def test_the_interpreter_line_names_files_without_an_ending(first: str, language: str | None) -> None:
    for rest in ("", "\n", "\nx\n", " \r\n"):
        assert language_of("bin/tool", first + rest) == language
        assert language_of("bin/tool.xyz", first + rest) == language
        assert language_of("bin/tool.go", first + rest) == "go"


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("// -*- C++ -*-", "c++"),
        ("# -*- mode: ruby -*-", "ruby"),
        ("; -*- coding: utf-8; mode: Emacs-Lisp; fill-column: 80 -*-", "emacs lisp"),
        ("# -*- mode: shell-script; indent-tabs-mode: nil -*-", "shell"),
        ("# -*- coding: utf-8 -*-", None),
        ("# vim: set ft=python ts=4:", "python"),
        ("/* vi: filetype=cpp */", "c++"),
        ("# vim:syntax=nosuch", None),
        ("the vim: way", None),
    ],
)
def test_mode_lines_name_files_that_their_names_do_not(line: str, language: str | None) -> None:
    many = "words\n" * 1000
    assert language_of("tool", f"{line}\n{many}") == language_of("tool", f"a\n\nb\n{line}") == language
    assert language_of("tool", f"{many}{line}\nx\n\n") == language
    assert language_of("tool", f"{many}{line}\n{many}") is None
    for above in (4, 5):
        found = language if above < 5 else None
        assert language_of("tool", "a\n" * above + f"{line}\n{many}") == found
        assert language_of("tool", f"{many}{line}\n" + "a\n" * above) == found
    assert language_of("tool.go", line) == "go"  # an ending that one language has decides alone
    assert language_of("a.h", f"{line}\nint x;\n") == (language or "c")


def test_tables_hold_together() -> None:
    """A name means one language, and every language has a way to be found."""
    for table in (BY_ENDING, BY_NAME, BY_INTERPRETER, ALIASES):
        assert all(language == language.strip().lower() for language in table.values())
    assert set(ALIASES.values()) <= LANGUAGES and set(BY_INTERPRETER.values()) <= LANGUAGES
    assert not [alias for alias, language in ALIASES.items() if alias in LANGUAGES and alias != language]
    assert set(SIGNS) == AMBIGUOUS and len(LANGUAGES) > 150
    for language in LANGUAGES:
        assert language_named(language) == language_named(language.upper().replace(" ", "-")) == language
    assert language_named("no such language") is None and language_named("") is None


@pytest.mark.parametrize(
    "unit", ["\n", " ", "a", "-*- ", "-*- mode: ", "vim: ", "#!", "a(", "a:", "class x ", "$$", "x."]
)
def test_five_megabytes_of_anything_take_a_moment(unit: str) -> None:
    content = (unit * (5_000_000 // len(unit) + 1))[:5_000_000]
    start = time.process_time()
    for ending in sorted(AMBIGUOUS):
        language_of(f"a.{ending}", content)
    assert time.process_time() - start < 3.0


@settings(max_examples=300, deadline=None)
@given(st.text(), st.sampled_from(["", ".h", ".m", ".pl", ".1", ".sql", ".in"]), st.text())
def test_no_name_and_no_text_raises(name: str, ending: str, content: str) -> None:
    for found in (language_of(name + ending), language_of(name + ending, content), language_named(content)):
        assert found is None or found == found.lower()
