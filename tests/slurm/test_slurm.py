"""launch/slurm.sbatch on a real Slurm of virtual nodes: torchrun's losses, also over a requeue in the middle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from launched_run import EIGHT_RANKS, LaunchedRun

if TYPE_CHECKING:
    from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slow
BATCH = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
TWO_NODES = ("--nodes=2", "--gpus-per-node=4")


def submit(cluster: Cluster, tiny_run: LaunchedRun, name: str, *arguments: str) -> tuple[str, Path]:
    """Queue the run on two nodes x four ranks; returns the job and the file of its output."""
    words = [*TWO_NODES, f"--output={name}.out", str(BATCH), *tiny_run.arguments(name, *arguments)]
    job = cluster.call("sbatch", "--parsable", *words, cwd=tiny_run.file.parent)
    return job, tiny_run.file.parent / f"{name}.out"


def test_two_nodes_give_the_losses_of_torchrun(
    cluster: Cluster, tiny_run: LaunchedRun, undisturbed: dict[int, float]
) -> None:
    job, output = submit(cluster, tiny_run, "nodes", *EIGHT_RANKS)
    cluster.wait(job, output)
    assert "2 nodes x 4 ranks" in output.read_text()
    assert tiny_run.losses("nodes") == undisturbed


def test_a_warning_in_the_middle_requeues_and_resumes(
    cluster: Cluster, tiny_run: LaunchedRun, undisturbed: dict[int, float]
) -> None:
    job, output = submit(cluster, tiny_run, "warned", *EIGHT_RANKS)
    tiny_run.wait_for_step("warned", 3)
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    cluster.wait(job, output)
    said = output.read_text()
    assert "restart 0: requeue" in said and "restart 1: finished" in said, said
    assert tiny_run.losses("warned") == undisturbed


def refused(cluster: Cluster, job: str, output: Path) -> str:
    """What a job said that ended with 2."""
    with pytest.raises(AssertionError, match="FAILED"):
        cluster.wait(job, output)
    assert "ExitCode=2:0" in cluster.call("scontrol", "show", "job", job)
    return output.read_text()


def test_an_allocation_that_does_not_fit_is_refused(cluster: Cluster, tiny_run: LaunchedRun) -> None:
    said = refused(cluster, *submit(cluster, tiny_run, "small", "parallel.dp=2"))
    assert "asks for 2 ranks, here are 2 nodes x 4" in said
    assert not tiny_run.folder("small").exists()


def test_a_lost_project_says_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    copy = shutil.copy(BATCH, tmp_path / "copy.sbatch")
    job = cluster.call("sbatch", "--parsable", "--output=lost.out", str(copy), "run.toml", cwd=tmp_path)
    said = refused(cluster, job, tmp_path / "lost.out")
    assert "no launch/common.sh" in said and "export MEGACODE_ROOT=DIR" in said
