"""What a file says of its own language: an interpreter line, an editor's mode line, and the looks of its text.

The looks decide only between languages that share an ending. Each sign is one line that the one language is full of
and the others never have; signs are tried in order and the first decides. Only the head of a file is read, and every
pattern stays inside a line, so that time is bounded whatever the text.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from megacode.data.languages.tables import ALIASES, BY_INTERPRETER, LANGUAGES

HEAD_CHARACTERS = 20_000
MODE_LINES = 5
_VERSION = re.compile(r"[\d.]+$")
_EMACS = re.compile(r"-\*-[ \t]*+(?:[^\n]{0,200}?\bmode:[ \t]*+)?([\w+#.-]{1,40})[ \t]*+(?:;[^\n]{0,200}?)?-\*-", re.I)
_VIM = re.compile(r"(?:^|[ \t])(?:vim?|ex):[^\n]{0,200}?\b(?:ft|filetype|syntax)=([\w+#.-]{1,40})", re.I | re.M)


def language_named(name: str) -> str | None:
    """Return our name of a language that an editor, a data set or a person calls `name`, or None.

    "C-Sharp", "csharp" and "C#" are "c#"; dashes stand for blanks.
    """
    lower = name.strip().lower()
    if lower in LANGUAGES:
        return lower
    if lower in ALIASES:
        return ALIASES[lower]
    blanks = lower.replace("-", " ")
    return blanks if blanks in LANGUAGES else ALIASES.get(lower.replace(" ", "-"))


def by_shebang(content: str) -> str | None:
    """Return the language of the interpreter in a first line `#! ...`, or None; versions, env and flags are skipped."""
    if not content.startswith("#!"):
        return None
    words = content[2 : min(_line_end(content, 0), 300)].split()
    programs = (word.rpartition("/")[2].lower() for word in words if not word.startswith("-") and "=" not in word)
    for program in programs:
        if program != "env":
            return BY_INTERPRETER.get(program) or BY_INTERPRETER.get(_VERSION.sub("", program))
    return None


def by_mode_line(content: str) -> str | None:
    """Return the language that an Emacs (`-*- mode -*-`) or Vim (`vim: ft=mode`) line names, or None.

    Such a line is among the first five or the last five of a file, as the editors have it.
    """
    first = content[:1500].split("\n", MODE_LINES)[:MODE_LINES]
    last = content[-1500:].rstrip("\n").rsplit("\n", MODE_LINES)[-MODE_LINES:]
    for lines in (first, last) if len(content) > 1500 else ((*first, *last),):
        text = "\n".join(lines)
        for pattern in (_EMACS, _VIM):
            found = pattern.search(text)
            language = language_named(found[1]) if found else None
            if language:
                return language
    return None


def by_looks(ending: str, content: str) -> str | None:
    """Return which of the languages that share `ending` (no dot, lower case) the text is in, or None when unsure."""
    head = content[:HEAD_CHARACTERS]
    for language, sign in SIGNS.get(ending, ()):
        if sign.search(head):
            return language
    return None


def _line_end(content: str, start: int) -> int:
    """Return where the line that holds `start` ends."""
    end = content.find("\n", start)
    return len(content) if end < 0 else end


# ending | language | what a line of it begins with
_SIGNS = r"""
as  | actionscript | (?:package|import|public|private|var|function|class)\b
cls | tex          | \\(?:NeedsTeXFormat|ProvidesClass|LoadClass|RequirePackage|DeclareOption|def|newcommand)\b
cls | visual basic | VERSION \d|Attribute VB_|Option Explicit|(?:Private|Public) (?:Sub|Function|Const|Declare)\b
cls | apex         | (?:public|private|global|abstract|virtual|@)[^%\n]{0,80}\b(?:class|interface|enum|isTest)\b
cls | objectscript | Class [\w.]++
d   | d            | (?:module|import)[ \t]++[\w.]++[ \t]*+[;:,=]|unittest\b|version[ \t]*+\(|alias[ \t]|void main\(
d   | makefile     | [^:\n]{1,300}\.(?:o|lo|d|rmeta|rlib|so)[ \t]*+:
f   | fortran      | (?i:[c*!]|(?:program|subroutine|function|integer|real|implicit|call)\b|end$)
f   | forth        | : \S|\\ |\([ ]
for | fortran      | (?i:[c*!]|(?:program|subroutine|function|integer|real|implicit|call)\b|end$)
for | forth        | : \S|\\ |\([ ]
fs  | glsl         | #version\b|precision\b|(?:uniform|varying|in|out|attribute)[ \t]++\w|void[ \t]++main\b
fs  | f#           | (?:namespace|open|let|module|type|member|match)[ \t]++\S|\(\*|\[<
fs  | forth        | : \S|\\[ ]
h   | objective-c  | @(?:interface|protocol|class|property|end|import|implementation)\b|#import\b
h   | c++          | #[ \t]*+include[ \t]*+<[a-z_]++>
h   | c++          | (?:class|namespace|template|using|typename|constexpr)\b[^;={\n]{0,200}[<{;:]
h   | c++          | (?:public|private|protected)[ \t]*+:|(?:virtual|explicit|friend|class|namespace)[ \t]++\w++$
h   | c++          | [^/*\n]{0,200}\b(?:std::|static_cast<|nullptr\b)
inc | php          | <\?(?:php|=|\s|$)
inc | c++          | #[ \t]*+(?:include|if|ifdef|ifndef|define|pragma)\b|namespace\b
inc | pascal       | \{\$|(?i:procedure|function)[ \t]++\w[^{\n]{0,200};
inc | html         | <(?:html|div|table|p|a|!DOCTYPE|script)\b
inc | assembly     | (?i:\w++[ \t]++(?:equ|macro|db|dw)\b|;|\.(?:macro|equ|globl|include)\b|%(?:define|macro)\b)
l   | roff         | \.[A-Z]{2}\b|\.\\"
l   | lex          | %[{%}]|%option\b
l   | common lisp  | \(def
m   | mercury      | :-[ \t]*+(?:module|interface|implementation|import_module|pred|func)\b
m   | objective-c  | @(?:interface|implementation|protocol|class|import|property|end)\b|#(?:import|include)\b
m   | mathematica  | \(\*|BeginPackage\[|Begin\["|Needs\["
m   | matlab       | %|(?:function|classdef|clear|close|clc)\b|\w++(?:\([^)\n]*+\))?[ \t]*+=[^=\n]*+$|end$
ml  | ocaml        | (?:let rec|open [A-Z]|external|val|module \w++[ \t]*+[:=])|[^\n]{0,200};;[ \t]*+$
ml  | standard ml  | (?:structure|signature|functor|fun)[ \t]++\w
pl  | prolog       | :-[ \t]*+(?:module|use_module|dynamic|initialization|ensure_loaded|discontiguous)\b
pl  | perl         | (?:use|package|sub|my|our|require)[ \t]*+[\w:$@%(]|[$@]\w++[ \t]*+=|=(?:head|pod|cut)
pl  | prolog       | [a-z]\w*+(?:\([^\n]{0,200}\))?[ \t]*+:-|[a-z]\w*+\([^;\n]{0,200}\)\.[ \t]*+$|%[% ]
pm  | xpm          | /\* XPM \*/
pm  | raku         | use v6\b|unit (?:class|module)\b
pp  | pascal       | (?i:(?:unit|program|uses|interface|implementation)\b|\{\$|begin$)
pro | prolog       | [a-z]\w*+\([^\n]{0,200}\)[ \t]*+:-|:-[ \t]*+\w
pro | qmake        | (?:QT|TEMPLATE|TARGET|SOURCES|HEADERS|CONFIG|DEFINES|include)\b[^\n]{0,60}[=(]
pro | idl          | (?i:(?:pro|function|compile_opt)\b|;)
r   | rebol        | (?i:rebol|red)[ \t]*+\[
rs  | xml          | <\?xml|<!DOCTYPE|<!--
sql | plsql        | (?i:create (?:or replace )?(?:package|type body)\b|dbms_output\b|set serveroutput\b)
sql | tsql         | (?i:go$|use \[|set (?:ansi_nulls|quoted_identifier)\b|declare @|exec \w|print ')
sql | plpgsql      | (?i:[^\n]{0,200}(?:\$\$|language '?plpgsql))
t   | raku         | use v6\b
t   | turing       | (?:var|const)[ \t]++\w++[ \t]*+:|put[ \t]++"|import[ \t]++GUI
ts  | xml          | <\?xml|<!DOCTYPE|<TS\b
tsx | xml          | <\?xml|<!DOCTYPE|<tileset\b
v   | coq          | (?:Require|From|Proof|Qed|Defined|Theorem|Lemma|Inductive|Fixpoint|Definition|Section)\b
v   | verilog      | (?:module[ \t]++\w++[ \t]*+[#(;]|module[ \t]++\w++$|(?:always|assign|wire|reg|endmodule|`\w++)\b)
v   | v            | (?:pub )?(?:fn|struct|enum)[ \t]++\w
v   | coq          | \(\*
1   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
2   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
3   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
4   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
5   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
6   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
7   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
8   | roff         | \.(?:TH|SH|Dd|Dt|Os|so|de)\b|\.\\"
"""


def _signs() -> MappingProxyType[str, tuple[tuple[str, re.Pattern[str]], ...]]:
    """Return the table as ending -> its languages and their signs, in order."""
    signs: dict[str, tuple[tuple[str, re.Pattern[str]], ...]] = {}
    for row in _SIGNS.strip("\n").splitlines():
        ending, language, sign = row.split("|", 2)
        pattern = re.compile(r"^[ \t]*+(?:" + sign[1:] + ")", re.MULTILINE)
        signs[ending.strip()] = (*signs.get(ending.strip(), ()), (language.strip(), pattern))
    return MappingProxyType(signs)


SIGNS = _signs()
AMBIGUOUS = frozenset(SIGNS)
