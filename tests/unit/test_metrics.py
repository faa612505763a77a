"""metrics.jsonl survives kills and resumes, and a row reads well on a screen."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from megacode.metrics import MetricsError, MetricsLog, read_rows, render_step, render_validation
from megacode.metrics.history import history

STEP = {
    "kind": "step",
    "step": 120,
    "loss": 4.23456,
    "grad_norm": 1.02,
    "lr": 1.5e-3,
    "tokens": 983_040,
    "tokens_per_second": 12_345.6,
    "tflops_per_rank": 0.037,
    "mfu": None,
    "seconds": {"data": 0.004, "compute": 0.8, "reduce": 0.1, "optimizer": 0.05, "total": 1.0},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


def _rows(*steps: int) -> list[dict[str, object]]:
    return [{"kind": "start", "world_size": 8}, *({"kind": "step", "step": step, "loss": 1.0} for step in steps)]


def _write(path: Path, *steps: int) -> None:
    with MetricsLog(path) as log:
        for row in _rows(*steps):
            log.append(row)


def test_rows_come_back_as_they_were_and_are_there_at_once(path: Path) -> None:
    with MetricsLog(path) as log:
        for number, row in enumerate(_rows(1, 2), start=1):
            log.append(row)
            assert read_rows(path) == _rows(1, 2)[:number]
        log.append(STEP)
    assert read_rows(path)[-1] == STEP


def test_a_second_run_goes_on_at_the_end(path: Path) -> None:
    _write(path, 1, 2)
    _write(path, 3)
    assert [row.get("step") for row in read_rows(path)] == [None, 1, 2, None, 3]


@pytest.mark.parametrize("torn", ['{"kind": "st', '{"kind": "step", "step": 3}', "\0" * 70_000])
def test_a_torn_last_line_is_never_read_and_never_grows(path: Path, torn: str) -> None:
    _write(path, 1, 2)
    whole = path.read_text()
    path.write_text(whole + torn)
    assert read_rows(path) == _rows(1, 2)
    with MetricsLog(path) as log:
        assert path.read_text() == whole
        log.append({"kind": "step", "step": 3})
    assert [row.get("step") for row in read_rows(path)] == [None, 1, 2, 3]


def test_a_file_that_is_one_torn_line_becomes_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"kind"')
    MetricsLog(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(("resumed", "kept"), [(0, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])])
def test_resuming_drops_later_rows_and_keeps_writing(path: Path, resumed: int, kept: list[int]) -> None:
    _write(path, 10, 20, 30)
    with path.open("a") as file:
        file.write('{"kind": "validation", "step": 3')
    with MetricsLog(path) as log:
        log.truncate_after(resumed)
        log.append({"kind": "step", "step": 77})
    assert [row["step"] for row in read_rows(path) if row["kind"] == "step"] == [*kept, 77]
    assert read_rows(path)[0] == {"kind": "start", "world_size": 8}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_truncating_leaves_the_old_file_when_the_new_one_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(path, 10, 20)
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError("no space left")

    with MetricsLog(path) as log:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            log.truncate_after(10)
    assert path.read_bytes() == before


def test_a_broken_line_in_the_middle_is_named(path: Path) -> None:
    _write(path, 1, 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "what", lines[1], ""]))
    with pytest.raises(MetricsError, match=r"metrics\.jsonl:2: not JSON"):
        read_rows(path)
    path.write_text("[1, 2]\n")
    with pytest.raises(MetricsError, match=r"metrics\.jsonl:1: not a JSON object"):
        read_rows(path)


def test_numbers_that_are_not_finite_are_null_and_the_file_stays_json(path: Path) -> None:
    with MetricsLog(path) as log:
        log.append({"kind": "step", "step": 1, "loss": float("nan"), "seconds": {"total": float("inf")}})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"kind": "step", "step": 1, "loss": None, "seconds": {"total": None}}


def test_a_row_needs_a_kind(path: Path) -> None:
    with MetricsLog(path) as log, pytest.raises(ValueError, match="needs a kind"):
        log.append({"step": 1})


def _append_for_ever(path: Path) -> None:
    with MetricsLog(path) as log:
        for step in range(10**9):
            log.append({"kind": "step", "step": step, "filler": "x" * 500})


def test_a_killed_writer_leaves_whole_rows(path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_append_for_ever, args=(path,))
    writer.start()
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(10)
    assert [row["step"] for row in read_rows(path)] == list(range(len(read_rows(path))))
    assert read_rows(path)


def test_a_step_on_the_screen() -> None:
    line = render_step(STEP, steps=200)
    assert line.startswith("step 120/200  loss  4.2346  norm   1.020  lr 1.50e-03     12,346 tokens/s")
    assert line.endswith("0.037 TFLOP/s    1.000 s (compute 80%, reduce 10%, optimizer 5%)")
    assert "MFU" not in line
    assert "MFU 31.2 %" in render_step({**STEP, "mfu": 0.312})


def test_lines_stand_under_each_other() -> None:
    first, later = render_step({**STEP, "step": 1, "loss": 11.5, "grad_norm": 0.2}, 250_000), render_step(STEP, 250_000)
    assert [i for i, c in enumerate(first) if c == "l"] == [i for i, c in enumerate(later) if c == "l"]
    assert len(first) == len(later)


def test_a_row_with_gaps_still_renders() -> None:
    assert "loss     nan" in render_step({"kind": "step", "step": 1, "loss": None})
    line = render_validation({"kind": "validation", "step": 100, "left_to_right": 4.4, "psm": None}, 200)
    assert line == "step 100/200  validation  left to right 4.4000  PSM nan  SPM nan"


def test_history_sorts_rows_and_leaves_gaps_out() -> None:
    rows = [{"kind": "start", "parameters": 5}, *({**STEP, "step": step, "loss": None} for step in (1, 2)), STEP]
    rows += [{"kind": "start"}, {"kind": "validation", "step": 2, "psm": 2.0}, {"kind": "unknown"}]
    run = history(rows)
    assert (len(run.starts), len(run.steps), len(run.validations)) == (2, 3, 1)
    assert run.started_with("parameters") == 5
    assert run.curve("loss") == ((120, 4.23456),)
    assert run.validation_curve("psm") == ((2, 2.0),)
    assert run.median("tokens_per_second") == 12_345.6
    assert run.phase_shares() == pytest.approx(
        {"data": 0.004, "compute": 0.8, "reduce": 0.1, "optimizer": 0.05, "other": 0.046}
    )
