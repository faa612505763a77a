"""launch/torchrun.sh: mistakes start nothing, a polite stop is a success, and the next start goes on bit for bit."""

from __future__ import annotations

import signal

import pytest
from launched_run import FOUR_RANKS, LaunchedRun

pytestmark = pytest.mark.slow


def test_a_wrong_run_starts_no_rank(tiny_run: LaunchedRun) -> None:
    assert tiny_run.start("torchrun.sh", "wrong", "parallel.tp=3", "optim.lr_warmpu=3").wait(60) == 2
    said = tiny_run.log("wrong").read_text()
    assert "parallel.tp" in said and "did you mean optim.lr_warmup" in said
    assert not tiny_run.folder("wrong").exists()


def test_a_term_in_the_middle_then_the_undisturbed_curve(tiny_run: LaunchedRun, undisturbed: dict[int, float]) -> None:
    process = tiny_run.start("torchrun.sh", "stopped", *FOUR_RANKS)
    tiny_run.wait_for_step("stopped", 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, tiny_run.log("stopped").read_text()
    assert (tiny_run.folder("stopped") / "STOPPED").exists()
    done = max(tiny_run.losses("stopped"))
    assert 3 <= done < max(undisturbed), "the stop came too late to show anything"
    assert tiny_run.run("torchrun.sh", "stopped", *FOUR_RANKS) == undisturbed
    assert (tiny_run.folder("stopped") / "FINISHED").exists()
    assert not (tiny_run.folder("stopped") / "STOPPED").exists()
