"""Lines: too many, one too long, too long on average. What people write is broken into short lines."""

from __future__ import annotations

from megacode.data.prepare.filters.rules import Rules
from megacode.data.prepare.filters.text import Text


def bad_lines(text: Text, rules: Rules) -> str | None:
    """Return why the file's lines drop it, or None. Lengths are in characters, without the line's end."""
    if rules.max_lines is not None and len(text.lines) > rules.max_lines:
        return f"over {rules.max_lines} lines"
    lengths = list(map(len, text.lines))
    longest = max(lengths, default=0)
    if text.language in rules.long_lined:
        too_long = rules.long_line is not None and longest > rules.long_line
        return f"a line over {rules.long_line} characters" if too_long else None
    if longest > rules.max_line:
        return f"a line over {rules.max_line} characters"
    if sum(lengths) > rules.mean_line * len(lengths):
        return f"mean line over {rules.mean_line} characters"
    return None
