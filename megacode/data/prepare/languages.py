"""The languages of files, where preparing looks for them."""

from megacode.data.languages import LANGUAGES, language_named, language_of

__all__ = ["LANGUAGES", "language_named", "language_of"]
