"""What is said when a checkpoint cannot be used."""

from __future__ import annotations

from megacode.errors import MegacodeError


class CheckpointError(MegacodeError):
    """A checkpoint that is missing, damaged or of another run; the message names the file and the reason."""


class Damage(CheckpointError):
    """A file of a checkpoint is not as it was written: an older checkpoint may serve in its place."""


class Fenced(CheckpointError):
    """Another start of the run has taken over its folder: this one must not save any more."""
