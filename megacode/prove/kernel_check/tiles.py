"""Times every candidate tile of every kernel that has some, by standing in where an op would take the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from triton.runtime.errors import TritonError

from megacode.kernels.tuning import C, CannotLaunch, Chooser, Clock, FixedChoice, Key


@dataclass(frozen=True)
class Sweep:
    """Times all candidates of each problem it is asked about, keeps the times, and chooses the fastest.

    timings: a row per problem: op, key, and milliseconds by candidate, None where it cannot launch.
    """

    clock: Clock
    timings: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[tuple[str, Key], Any] = field(default_factory=dict)

    def choose(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C:
        """Return the fastest candidate; times each problem once. Raises CannotLaunch where none of them runs."""
        if (op, key) not in self.chosen:
            times = {candidate: self._time(candidate, run) for candidate in candidates}
            row = {repr(candidate): time for candidate, time in times.items()}
            self.timings.append({"op": op, "key": list(key), "milliseconds": row})
            ran = {candidate: time for candidate, time in times.items() if time is not None}
            if not ran:
                raise CannotLaunch(f"none of the candidates of {op} runs: {list(row)}")
            self.chosen[op, key] = min(ran, key=ran.__getitem__)
        return self.chosen[op, key]

    def _time(self, candidate: C, run: Callable[[C], Any]) -> float | None:
        try:
            return self.clock.milliseconds(lambda: run(candidate))
        except CannotLaunch:
            return None


class EveryCandidate:
    """Launches all candidates and chooses the first: for compiling them ahead of their use."""

    def choose(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C:
        """Return the first candidate; those that do not compile are left to whoever times them."""
        for candidate in candidates[1:]:
            try:
                run(candidate)
            except TritonError:
                continue
        return candidates[0]


@contextmanager
def choosing_by(chooser: Chooser) -> Iterator[None]:
    """While the block runs, `chooser` stands in for the fixed choice, whoever makes it."""
    fixed = FixedChoice.choose
    FixedChoice.choose = lambda self, *arguments: chooser.choose(*arguments)  # type: ignore[method-assign]
    try:
        yield
    finally:
        FixedChoice.choose = fixed  # type: ignore[method-assign]
