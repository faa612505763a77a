"""Data files by size, and plain text by name: settings and readme files stay, tables and corpora go."""

from __future__ import annotations

from fnmatch import fnmatchcase

from megacode.data.prepare.filters.rules import Rules
from megacode.data.prepare.filters.text import Text


def bad_size(text: Text, rules: Rules) -> str | None:
    """Return why a data file's size drops it, or None."""
    if text.language not in rules.data_languages:
        return None
    if rules.data_characters is not None:
        least, most = rules.data_characters
        if not least <= len(text.content) <= most:
            return f"data file outside {least} to {most} characters"
    if rules.data_lines is not None and len(text.lines) > rules.data_lines:
        return f"data file over {rules.data_lines} lines"
    return None


def bad_name(text: Text, rules: Rules) -> str | None:
    """Return why the file's name drops it, or None."""
    if text.ending in rules.excluded:
        return f".{text.ending} files are left out"
    if text.language == "text":
        names = text.name, text.name.removesuffix("." + text.ending)
        if not any(fnmatchcase(name, wanted) for name in names for wanted in rules.text_names):
            return "plain text that is no readme or the like"
    return None
