"""All filters in order, the cheap ones first: the first that drops a document gives the reason."""

from __future__ import annotations

from megacode.data.documents import Document
from megacode.data.prepare.filters.characters import bad_characters
from megacode.data.prepare.filters.encoded import encoded_data
from megacode.data.prepare.filters.generated import generated
from megacode.data.prepare.filters.lines import bad_lines
from megacode.data.prepare.filters.markup import bad_markup
from megacode.data.prepare.filters.rules import Rules
from megacode.data.prepare.filters.sizes import bad_name, bad_size
from megacode.data.prepare.filters.text import Text

EMPTY = "empty"
FILTERS = (bad_name, bad_size, bad_lines, bad_characters, generated, bad_markup, encoded_data)


def why_dropped(document: Document, rules: Rules) -> str | None:
    """Return the reason of the first filter that drops the document, in the report's words, or None.

    Time is linear in the content's length, whatever it holds.
    """
    if not document.content or document.content.isspace():
        return EMPTY
    text = Text(document)
    return next((reason for filter_of in FILTERS if (reason := filter_of(text, rules)) is not None), None)
