"""`TPxPPxDP[:SCHEDULE[:CHUNKS]]`: how a user writes down a layout to be verified or measured."""

from __future__ import annotations

from dataclasses import dataclass

from megacode.config.schema import ParallelConfig
from megacode.errors import MegacodeError
from megacode.layout.schedules import SCHEDULES


class WrongCall(MegacodeError):
    """An option of a command that cannot be understood."""

    exit_code = 2


@dataclass(frozen=True)
class Layout:
    """Ranks along each axis, and the schedule and its chunks; None: the configuration's own."""

    tp: int
    pp: int
    dp: int
    schedule: str | None = None
    chunks: int | None = None

    @classmethod
    def parse(cls, text: str) -> Layout:
        """From `2x2x1` or `1x4x1:interleaved:2`. Raises WrongCall for anything else."""
        sizes, *suffix = text.strip().split(":")
        numbers = sizes.lower().split("x")
        schedule, chunks = [*suffix, *(None, None)][:2]
        counts = [*numbers, *([] if chunks is None else [chunks])]
        if len(numbers) != 3 or len(suffix) > 2 or not all(text.isdecimal() and int(text) > 0 for text in counts):
            rule = "must be TPxPPxDP[:SCHEDULE[:CHUNKS]], for example 2x2x1 or 1x4x1:zb-h1"
            raise WrongCall(f"--layouts {text}: {rule}")
        if schedule is not None and schedule not in SCHEDULES:
            raise WrongCall(f"--layouts {text}: unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        tp, pp, dp = map(int, numbers)
        return cls(tp, pp, dp, schedule, None if chunks is None else int(chunks))

    @classmethod
    def of(cls, parallel: ParallelConfig) -> Layout:
        """The one that a configuration asks for."""
        return cls(parallel.tp, parallel.pp, parallel.dp, parallel.schedule, parallel.chunks)

    def settings(self) -> dict[str, int | str]:
        """The fields of [parallel] that it sets."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        sizes = f"{self.tp}x{self.pp}x{self.dp}"
        if self.schedule is None or self.pp == 1:
            return sizes
        chunked = f":{self.chunks}" if self.schedule == "interleaved" and self.chunks is not None else ""
        return f"{sizes}:{self.schedule}{chunked}"
