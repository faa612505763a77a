"""A polite stop: the first signal asks all ranks to save and leave at the next step, the second ends the process.

Imports no torch, so that the handlers can stand before torch is imported: a signal during that import would otherwise
kill the rank.
"""

from __future__ import annotations

import signal
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Remembers the first signal; `name` is empty until one has come."""

    def __init__(self) -> None:
        self.name = ""

    def install(self) -> StopRequest:
        """Become the handler of SIGTERM, SIGUSR1 and SIGINT of this process; returns itself."""
        for number in WATCHED:
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name
