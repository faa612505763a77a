"""The one error of this room."""

from __future__ import annotations

from megacode.errors import MegacodeError


class DataError(MegacodeError):
    """Input that cannot be used. The message says what is wrong, where, and what to do about it."""
