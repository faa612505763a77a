"""Which files are source code, and in which language: by name, by ending, then by what the file says and looks like.

An ending that only one language has decides alone: a `.py` is Python whatever is in it. Where several share an ending,
or there is none, a mode line for editors, the interpreter line and the text's looks decide, in this order.
"""

from __future__ import annotations

from megacode.data.languages.content import AMBIGUOUS, by_looks, by_mode_line, by_shebang
from megacode.data.languages.tables import BY_ENDING, BY_NAME

_PREFIXES = (("dockerfile.", "dockerfile"), ("containerfile.", "dockerfile"), ("jenkinsfile.", "groovy"))
_TEMPLATES = frozenset({"in", "tmpl", "template"})


def language_of(path: str, content: str | None = None) -> str | None:
    """Return the language of a file in lower case, or None when it is not known as code.

    Without `content`, an ending that languages share means the most frequent of them, and files without an ending
    are known by name alone.
    """
    name = path[path.rfind("/") + 1 :]
    lower = name.lower()
    named = BY_NAME.get(name) or BY_NAME.get(lower)
    if named is None:
        named = next((language for prefix, language in _PREFIXES if lower.startswith(prefix)), None)
    if named is not None:
        return named
    ending = _ending(lower)
    by_ending = BY_ENDING.get(ending)
    if content is None or (by_ending is not None and ending not in AMBIGUOUS):
        return by_ending
    return by_mode_line(content) or by_shebang(content) or by_looks(ending, content) or by_ending


def _ending(lower: str) -> str:
    """Return what is behind the last dot of a file name, or before it in `config.h.in`; "" without a dot inside."""
    stem, dot, ending = lower.rpartition(".")
    if ending in _TEMPLATES and "." in stem[1:]:
        stem, dot, ending = stem.rpartition(".")
    return ending if dot and stem else ""
