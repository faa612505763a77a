"""Markup: XML that is passed off as another language, and HTML that shows a reader next to nothing.

Visible text is what BeautifulSoup's `get_text` gives without script and style, found here by one pass of one pattern:
building the tree takes fifty times as long, and without end for a page that opens a million elements. The pattern
only has possessive repeats, and takes what it began even where the closing part never comes, so no input makes it
read a part twice.
"""

from __future__ import annotations

import re

from megacode.data.prepare.filters.rules import Rules
from megacode.data.prepare.filters.text import Text

XML_DECLARATION = "<?xml version="
_ATTRIBUTES = r"""(?:[^<>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?|["'])*+>?"""
_HIDDEN = re.compile(
    r"<!--(?:[^-]++|-(?!->))*+(?:-->)?"
    rf"|<(script|style)(?=[\s/>]){_ATTRIBUTES}(?:[^<]++|<(?!/\1\b))*+"
    rf"|<[a-z/!?]{_ATTRIBUTES}",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?<![^\0])[ \t\n\r\f]++(?![^\0])")
_ENTITY = re.compile(r"&(?:#\w{1,10}|[a-zA-Z]\w{1,31});")


def bad_markup(text: Text, rules: Rules) -> str | None:
    """Return why the file's markup drops it, or None."""
    if XML_DECLARATION in text.content[: rules.xml_header] and text.language not in rules.xml_kept:
        return "XML (it begins with an XML declaration)"
    if text.language == "html" and (rules.html_share or rules.html_characters):
        visible = visible_characters(text.content)
        if visible < rules.html_characters:
            return f"HTML with under {rules.html_characters} characters of visible text"
        if visible < rules.html_share * len(text.content):
            return f"HTML with under {rules.html_share:.0%} visible text"
    return None


def visible_characters(html: str) -> int:
    """Return how many characters, blanks included, stand outside tags, comments, scripts and styles.

    An entity is one character, and so are blanks that fill all the room between two tags, as BeautifulSoup has it.
    Tags and comments that are never closed hide the rest.
    """
    shown = _ENTITY.sub("&", _BETWEEN.sub(" ", _HIDDEN.sub("\0", html)))
    return len(shown) - shown.count("\0")
