"""`megacode prepare` as job arrays of a real Slurm of virtual nodes: the bytes of one machine, whatever happens."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import killed_run
import pytest
from corpus import many_files, result_of, write_files

from megacode.data.prepare import Submitted, options_from, plan, prepare

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slow
BATCH = Path(__file__).parents[2] / "launch" / "slurm_prepare.sbatch"
BUCKET_BYTES = 60_000
SLURM = {"kind": "slurm", "tasks": 4, "time": "10:00", "memory_gb": 1, "venv": sys.prefix}


@pytest.fixture
def on_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, for commands of this process too."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(killed_run.ROOT))
    return replace(cluster, environment={**cluster.environment, "PYTHONPATH": str(killed_run.ROOT)})


def table(source: Path, out: Path, executor: dict[str, Any]) -> dict[str, Any]:
    return {"sources": [{"path": str(source)}], "out": str(out), "executor": executor}


def without_work(out: Path) -> dict[str, bytes]:
    """The result; under Slurm the work folder keeps the jobs' logs."""
    return {name: data for name, data in result_of(out).items() if not name.startswith("work/")}


def test_the_batch_script_gives_the_bytes_of_one_machine(on_cluster: Cluster, tmp_path: Path) -> None:
    source = many_files(tmp_path / "code")
    prepare(options_from(table(source, tmp_path / "local", {})))
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in SLURM.items())
    text = f'[[sources]]\npath = "code"\n[output]\nfolder = "slurm"\n[executor]\n{settings}\n'
    (tmp_path / "prepare.toml").write_text(text)
    words = ("sbatch", "--parsable", "--output=driver.out", str(BATCH), "prepare.toml")
    job = on_cluster.call(*words, cwd=tmp_path)
    on_cluster.wait(job, tmp_path / "driver.out", seconds=200)
    said = (tmp_path / "driver.out").read_text()
    assert all(f"{stage}: " in said for stage in ("collect", "unique", "pairs", "clusters", "finish", "publish"))
    assert without_work(tmp_path / "slurm") == result_of(tmp_path / "local")
    assert not list((tmp_path / "slurm").glob("work/*/data"))


def test_a_killed_waiter_and_several_buckets(
    on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting the call returns at once; then one who waits is killed; the next start finds the queued jobs."""
    source = many_files(tmp_path / "code", families=60)
    monkeypatch.setattr(plan, "BUCKET_BYTES", BUCKET_BYTES)
    prepare(options_from(table(source, tmp_path / "local", {})))
    assert len(result_of(tmp_path / "local")) >= 5
    options = options_from(table(source, tmp_path / "slurm", SLURM))
    first = prepare(options, wait=False)
    assert isinstance(first, Submitted) and len(first.jobs) == 6
    waiter = killed_run.start(tmp_path, table(source, tmp_path / "slurm", SLURM), BUCKET_BYTES)
    assert killed_run.kill_when(waiter, tmp_path / "slurm", "work/*/data/unique/00000.stats.json")
    again = prepare(options, wait=False)
    assert isinstance(again, Submitted) and set(again.jobs) < set(first.jobs)
    assert not isinstance(prepare(options), Submitted)
    assert without_work(tmp_path / "slurm") == result_of(tmp_path / "local")


def test_a_failed_task_is_told_and_nothing_stays_queued(on_cluster: Cluster, tmp_path: Path) -> None:
    source = write_files(tmp_path / "tables", {f"{n}.jsonl": '{"content": "a = 1"}\n' for n in range(3)})
    (source / "3.jsonl").write_text('{"content": "a = 1"}\n{"content"')
    waiter = killed_run.start(tmp_path, table(source, tmp_path / "slurm", SLURM), BUCKET_BYTES)
    _, said = waiter.communicate(timeout=150)
    assert waiter.returncode == 1 and "3.jsonl, line 2: not JSON" in said
    assert on_cluster.call("squeue", "--noheader") == ""
    (source / "3.jsonl").write_text('{"content": "a = 1"}\n{"content": "b = 2"}')
    killed_run.finish(killed_run.start(tmp_path, table(source, tmp_path / "slurm", SLURM), BUCKET_BYTES))
    prepare(options_from(table(source, tmp_path / "local", {})))
    assert without_work(tmp_path / "slurm") == result_of(tmp_path / "local")
