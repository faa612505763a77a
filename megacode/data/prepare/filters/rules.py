"""Two published sets of thresholds, as data: what StarCoder and StarCoder2 left out of The Stack.

stack-v1: StarCoder (arXiv 2305.06161, section 3) with the per-extension table of bigcode-dataset, the rows that differ
from the rest. stack-v2: StarCoder2 (arXiv 2402.19173, section 2.4). Every field can be changed with
`dataclasses.replace`; all are plain numbers, texts and tuples, so that a set can be written to a manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

Shares = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Rules:
    """Thresholds of all filters; None, 0 or () turns one off. Lengths are in characters, shares in [0, 1].

    `max_line` and `mean_line` hold for all languages but `long_lined`, where a line may have `long_line` characters.
    `alphanumeric` and `alphabetic` are the least shares of letters and digits, and of letters, in a file; the tables
    behind them name the share of a language, or of an ending as ".ads", that differs.
    `xml_header`: in how many first characters an XML declaration drops a file not in `xml_kept`.
    `html_share`, `html_characters`: the least visible text of HTML. `data_characters` (least, most) and `data_lines`
    (most) hold for `data_languages`. `text_names`: a file in the language "text" stays when its name, with or
    without the ending, matches one of them ("*" stands for anything); an empty list drops them all.
    `encoded_run`, `encoded_share`: the most characters of encoded data in one run, and its most share in all.
    `generated_lines`: how many first lines are searched for the published phrases. `generated_signs`: whether known
    names and headers of generated files count too. `excluded`: endings that the authors looked at and left out.
    """

    name: str
    max_lines: int | None = None
    max_line: int = 1000
    mean_line: int = 100
    long_lined: tuple[str, ...] = ()
    long_line: int | None = None
    alphanumeric: float = 0.25
    alphanumeric_of: Shares = ()
    alphabetic: float = 0.0
    alphabetic_of: Shares = ()
    xml_header: int = 0
    xml_kept: tuple[str, ...] = ()
    html_share: float = 0.2
    html_characters: int = 100
    data_languages: tuple[str, ...] = ()
    data_characters: tuple[int, int] | None = None
    data_lines: int | None = None
    text_names: tuple[str, ...] = ()
    encoded_run: int | None = None
    encoded_share: float = 1.0
    generated_lines: int = 5
    generated_signs: bool = False
    excluded: tuple[str, ...] = ()


_STACK_V1 = Rules(
    name="stack-v1",
    long_lined=(
        "bluespec", "cmake", "json", "markdown", "matlab", "plpgsql", "plsql", "r", "restructuredtext", "rmarkdown",
        "sql", "stata", "tex", "tsql",
    ),
    alphanumeric_of=(("sas", 0.0),),
    alphabetic_of=(
        ("json", 0.5), ("yaml", 0.5), ("matlab", 0.25), ("mathematica", 0.25), ("maple", 0.25), ("scheme", 0.25),
        ("augeas", 0.25), (".ads", 0.25), (".fp", 0.25), (".prc", 0.25), (".sv", 0.25), (".vhd", 0.25), (".bas", 0.25),
        (".y", 0.25),
    ),
    xml_header=100,
    xml_kept=("xslt",),
    data_languages=("json", "yaml"),
    data_characters=(50, 5000),
    excluded=(
        "al", "aux", "bison", "cats", "cdf", "cl2", "dpr", "f77", "frg", "frx", "geo", "grt", "ltx", "nbp", "pck", "ph",
        "pls", "plx", "rest", "rktd", "rktl", "sexp", "sig", "tab", "toc", "vhf", "vrx", "w", "wlt", "xrl", "yy",
    ),
)  # fmt: skip

_STACK_V2 = Rules(
    name="stack-v2",
    max_lines=100_000,
    long_lined=("html", "json", "markdown", "roff", "roff manpage", "smt", "tex", "text", "xml"),
    long_line=100_000,
    alphabetic=0.25,
    alphabetic_of=(("motorola 68k assembly", 0.0), ("webassembly", 0.0)),
    data_languages=("text", "json", "yaml", "web ontology language", "graphviz (dot)"),
    data_lines=512,
    text_names=("*requirement*", "readme", "notes", "todo", "description", "cmakelists"),
    encoded_run=1024,
    encoded_share=0.5,
    generated_signs=True,
)

RULE_SETS = MappingProxyType({rules.name: rules for rules in (_STACK_V1, _STACK_V2)})
