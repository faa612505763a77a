"""The one base of every error that is the user's to mend: the command line prints it as a line, without a traceback."""

from __future__ import annotations


class MegacodeError(ValueError):
    """Something outside the program is wrong; the message says what, where, and what to do."""

    exit_code = 1
