"""Who chooses the tiles of a kernel among its candidates: always the first, or the one that a GPU ran fastest.

`FIXED` repeats bit for bit on every machine. `TimedChoice` times the candidates of each problem once per kind of GPU
and version of Triton, and keeps what it found in a file, so that all ranks and all later runs choose the same.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

C = TypeVar("C")
Key = tuple[int | str | bool, ...]


class Chooser(Protocol):
    """Chooses one of an op's candidates for the problem that `key` describes; `run` launches it."""

    def choose(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C: ...


class FixedChoice:
    """The first candidate, never timed: the deterministic default."""

    def choose(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C:
        """Return the first candidate."""
        return candidates[0]


FIXED: Final = FixedChoice()


class CannotLaunch(ValueError):
    """A candidate asks for more than the GPU has; another one may not."""


class Clock(Protocol):
    """Times work on one kind of machine. `stopwatch.CudaStopwatch` is the real one."""

    @property
    def machine(self) -> str:
        """What timings hold for: the GPU and the version of Triton."""

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Return how long `work` takes. Raises CannotLaunch where the machine cannot run it."""


def to_stderr(message: str) -> None:
    """Write a line for people."""
    sys.stderr.write(f"{message}\n")


class TimedChoice:
    """The fastest candidate on this GPU, timed once per (op, key) and remembered in a file.

    folder: holds `MACHINE.json`, one file per GPU and version of Triton, and a lock beside it. A rank that times holds
            the lock; the others of its node wait and read, so that all choose alike. Made where it is missing.
    clock:  times a launch; by default CUDA events.
    say:    takes a message for people, by default to stderr: a damaged file is named and made anew.
    """

    def __init__(self, folder: Path, clock: Clock | None = None, say: Callable[[str], None] = to_stderr) -> None:
        self._folder = folder
        self._clock = clock
        self._say = say
        self._chosen: dict[tuple[str, Key], Any] = {}

    def choose(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C:
        """Return the fastest of `candidates`, which `repr` tells apart and says completely.

        Raises CannotLaunch where none of them runs on this GPU.
        """
        if len(candidates) == 1:
            return candidates[0]
        chosen = self._chosen.get((op, key))
        if chosen not in candidates:
            chosen = self._chosen[op, key] = self._look_up_or_time(op, key, candidates, run)
        return chosen

    def _look_up_or_time(self, op: str, key: Key, candidates: Sequence[C], run: Callable[[C], Any]) -> C:
        clock = self._clock = self._clock or _cuda_clock()
        name = re.sub(r"[^A-Za-z0-9._]+", "-", clock.machine)
        path, by_text = self._folder / f"{name}.json", {repr(candidate): candidate for candidate in candidates}
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / f"{name}.lock"):
            known = self._read(path)
            entry = f"{op} {json.dumps(key)}"
            timings = known.get(entry, {})
            # Other candidates than those timed: this code is newer or older than the file.
            if timings.keys() != by_text.keys():
                timings = {text: _time(clock, candidate, run) for text, candidate in by_text.items()}
                _write(path, {**known, entry: timings})
        ran = {text: timings[text] for text in by_text if timings[text] is not None}
        if not ran:
            raise CannotLaunch(f"none of {len(candidates)} candidates of {op} runs on {clock.machine}: {list(by_text)}")
        return by_text[min(ran, key=ran.__getitem__)]  # the earlier one where two are equal

    def _read(self, path: Path) -> dict[str, dict[str, float | None]]:
        """Milliseconds by candidate, None where it cannot launch, by op and key; empty where the file is of no use."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            self._say(f"{path} is damaged ({error}); timing the kernels again")
            return {}
        if not _is_table(known):
            self._say(f"{path} holds no timings of kernels; timing them again")
            return {}
        return known


def _time(clock: Clock, candidate: C, run: Callable[[C], Any]) -> float | None:
    try:
        return clock.milliseconds(lambda: run(candidate))
    except CannotLaunch:
        return None


def _is_table(known: Any) -> bool:
    """Whether `known` is what `_write` writes."""
    if not isinstance(known, dict) or not all(isinstance(timings, dict) for timings in known.values()):
        return False
    numbers = (number for timings in known.values() for number in timings.values())
    return all(number is None or isinstance(number, float) for number in numbers)


def _write(path: Path, known: Mapping[str, Mapping[str, float | None]]) -> None:
    """Replace the file whole, so that a reader finds the old or the new one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among all processes that see the folder; one that dies lets go."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cuda_clock() -> Clock:
    """CUDA events; imported when something is timed, so that the default needs no Triton."""
    from megacode.kernels.stopwatch import CudaStopwatch

    return CudaStopwatch()
