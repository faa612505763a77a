"""Executors that are not there say so; Ray, where it is, gives the bytes of one machine. Slurm: tests/slurm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from corpus import many_files, result_of

from megacode.data.errors import DataError
from megacode.data.prepare import options_from, prepare


def prepared(source: Path, out: Path, **executor: Any) -> dict[str, bytes]:
    prepare(options_from({"sources": [{"path": str(source)}], "out": str(out), "executor": executor}))
    return result_of(out)


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match="Ray is not installed: pip install ray"):
        prepared(many_files(tmp_path / "code", 2), tmp_path / "out", kind="ray")


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="there is no sbatch here; submit from a node of the cluster"):
        prepared(many_files(tmp_path / "code", 2), tmp_path / "out", kind="slurm")


@pytest.mark.slow
def test_ray_gives_the_bytes_of_one_machine(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray, which no extra installs")
    source = many_files(tmp_path / "code")
    try:
        found = prepared(source, tmp_path / "ray", kind="ray", tasks=3, workers=2, memory_gb=1)
    finally:
        ray.shutdown()
    assert found == prepared(source, tmp_path / "local")


def test_datatrove_is_quiet_and_its_log_is_kept_while_work_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = many_files(tmp_path / "code", 3)
    prepared(source, tmp_path / "out", tasks=2, workers=1)
    assert capfd.readouterr() == ("", "")
    (source / "bad.py").mkdir()
    (source / "bad.py" / "x.jsonl").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        prepared(source / "bad.py", tmp_path / "bad", workers=1)
    assert capfd.readouterr() == ("", "")
    (log,) = (tmp_path / "bad").glob("work/*/logs/collect-1/logs/task_00000.log")
    assert "not JSON" in log.read_text()
