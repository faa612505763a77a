"""What is said when a checkpoint cannot be used."""

from __future__ import annotations

from megacode.errors import MegacodeError


class CheckpointError(MegacodeError):
    """A checkpoint that is missing, damaged or of another run; the message names the file and the reason."""
