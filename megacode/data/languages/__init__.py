"""Languages of source files: which one a file is in, and what we call the ones that others name."""

from megacode.data.languages.content import language_named
from megacode.data.languages.files import language_of
from megacode.data.languages.tables import LANGUAGES

__all__ = ["LANGUAGES", "language_named", "language_of"]
