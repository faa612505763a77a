"""TimedChoice picks the fastest candidate once, for all processes and all later runs, and survives a damaged file."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from megacode.kernels.tuning import FIXED, CannotLaunch, TimedChoice

CANDIDATES = ("wide", "narrow", "huge")
KEY = (8192, 12, True)


@dataclass
class FakeClock:
    """Knows how long each candidate takes; None cannot launch. `timed`: what ran, in order."""

    milliseconds_of: Mapping[str, float | None]
    machine: str = "NVIDIA H100 80GB HBM3, triton 3.7.1"
    timed: list[str] = field(default_factory=list)

    def milliseconds(self, work: Callable[[], Any]) -> float:
        name = work()
        self.timed.append(name)
        found = self.milliseconds_of[name]
        if found is None:
            raise CannotLaunch(name)
        return found


def clock(wide: float | None = 2.0, narrow: float | None = 1.0, huge: float | None = None) -> FakeClock:
    return FakeClock({"wide": wide, "narrow": narrow, "huge": huge})


def choose(chooser: TimedChoice, op: str = "forward", key: Any = KEY, candidates: Any = CANDIDATES) -> str:
    return chooser.choose(op, key, candidates, lambda candidate: candidate)


def test_fixed_takes_the_first_and_runs_nothing() -> None:
    assert FIXED.choose("forward", KEY, CANDIDATES, lambda candidate: pytest.fail("it ran")) == "wide"


def test_the_fastest_that_launches_wins_and_is_timed_once(tmp_path: Path) -> None:
    fake = clock()
    chooser = TimedChoice(tmp_path / "made", fake)
    assert [choose(chooser), choose(chooser)] == ["narrow", "narrow"]
    assert fake.timed == ["wide", "narrow", "huge"]


def test_each_op_and_each_problem_is_timed(tmp_path: Path) -> None:
    fake = clock()
    chooser = TimedChoice(tmp_path, fake)
    for op, key in [("forward", KEY), ("backward", KEY), ("forward", (1, 12, True)), ("forward", KEY)]:
        choose(chooser, op, key)
    assert len(fake.timed) == 9


def test_a_later_run_reads_what_an_earlier_one_timed(tmp_path: Path) -> None:
    choose(TimedChoice(tmp_path, clock()))
    later = clock(wide=0.1)
    assert choose(TimedChoice(tmp_path, later)) == "narrow" and later.timed == []
    (path,) = tmp_path.glob("*.json")
    assert path.name == "NVIDIA-H100-80GB-HBM3-triton-3.7.1.json"
    assert json.loads(path.read_text()) == {
        "forward [8192, 12, true]": {"'wide'": 2.0, "'narrow'": 1.0, "'huge'": None}
    }


def test_equal_times_choose_alike_fresh_and_from_the_file(tmp_path: Path) -> None:
    chosen = [choose(TimedChoice(tmp_path, clock(wide=1.0))) for _ in range(2)]
    assert chosen == ["wide", "wide"]


def test_another_gpu_and_other_candidates_are_timed_anew(tmp_path: Path) -> None:
    choose(TimedChoice(tmp_path, clock()))
    other = FakeClock({"wide": 1.0, "narrow": 2.0, "huge": 3.0}, machine="NVIDIA A100, triton 3.7.1")
    assert choose(TimedChoice(tmp_path, other)) == "wide" and len(other.timed) == 3
    newer = clock(wide=0.5)
    assert choose(TimedChoice(tmp_path, newer), candidates=("wide", "narrow")) == "wide"
    assert newer.timed == ["wide", "narrow"]


def test_a_single_candidate_needs_no_clock(tmp_path: Path) -> None:
    fake = clock()
    assert choose(TimedChoice(tmp_path, fake), candidates=("wide",)) == "wide" and fake.timed == []


def test_no_candidate_that_launches_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CannotLaunch, match="none of 3 candidates of forward runs on NVIDIA H100"):
        choose(TimedChoice(tmp_path, clock(None, None, None)))


@pytest.mark.parametrize(
    "content", ['{"forward [8192', "\x00\xff", "[1]", '{"forward": 3}', '{"forward": {"wide": "a"}}']
)
def test_a_damaged_file_is_named_once_and_made_anew(tmp_path: Path, content: str) -> None:
    choose(TimedChoice(tmp_path, clock()))
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(content.encode("latin-1"))
    said: list[str] = []
    fake = clock()
    chooser = TimedChoice(tmp_path, fake, said.append)
    assert [choose(chooser), choose(chooser)] == ["narrow", "narrow"] and len(fake.timed) == 3
    assert len(said) == 1 and str(path) in said[0]
    again = clock()
    assert choose(TimedChoice(tmp_path, again, said.append)) == "narrow" and again.timed == [] and len(said) == 1


class SlowClock(FakeClock):
    """Takes as long as a real one may."""

    def milliseconds(self, work: Callable[[], Any]) -> float:
        time.sleep(0.1)
        return super().milliseconds(work)


def rank(folder: Path, number: int, barrier: Any, queue: Any) -> None:
    """One process: each would prefer another candidate if it timed."""
    times = {name: float(abs(index - number)) for index, name in enumerate(CANDIDATES)}
    fake = SlowClock(times)
    chooser = TimedChoice(folder, fake)
    barrier.wait()
    queue.put((choose(chooser), len(fake.timed)))


def test_processes_choose_alike_because_one_times_while_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=rank, args=(tmp_path, number, barrier, queue)) for number in range(3)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert len({chosen for chosen, _ in answers}) == 1
    assert sorted(timed for _, timed in answers) == [0, 0, 3]


def test_processes_that_time_different_problems_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def tune(op: str) -> None:
        choose(TimedChoice(tmp_path, clock()), op)

    processes = [context.Process(target=tune, args=(f"op {number}",)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    (path,) = tmp_path.glob("*.json")
    assert sorted(json.loads(path.read_text())) == [f"op {number} [8192, 12, true]" for number in range(6)]
    assert not list(tmp_path.glob("*.new"))
