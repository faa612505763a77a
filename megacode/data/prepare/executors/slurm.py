"""The stages as job arrays of Slurm, each begun when all tasks of the one before have ended well.

A start after a failure, or after a killed waiter, submits only tasks that are not complete, and none while jobs of an
earlier start are still in the queue.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from datatrove.executor.slurm import SlurmPipelineExecutor

from megacode.console import say
from megacode.data.errors import DataError
from megacode.data.prepare.executors.step import quiet, refuse_failure, steps_of
from megacode.data.prepare.plan import Plan, begin
from megacode.data.prepare.stages.chain import chain
from megacode.data.prepare.writing import write_json

JOBS = "slurm_jobs.json"
POLL_SECONDS = (1.0, 30.0)  # at first, and at most


class SlurmExecutor(SlurmPipelineExecutor):
    """datatrove's executor without its job that adds up datatrove's own statistics, one more array per stage."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, object]:
        """Return the options of sbatch; without a partition, none is named, and the cluster's default holds."""
        named = super().get_sbatch_args(max_array)
        return {key: value for key, value in named.items() if key != "partition" or value}

    def launch_merge_stats(self) -> None:
        """Do nothing: the manifest has our statistics."""


def submit(plan: Plan) -> list[str]:
    """Submit all stages that are not complete; returns the jobs, also those that an earlier start still has queued.

    Raises DataError where Slurm is not to be had or refuses a job.
    """
    if shutil.which("sbatch") is None:
        raise DataError("executor.kind=slurm, but there is no sbatch here; submit from a node of the cluster")
    known = active(_known(plan))
    if known:
        return known
    quiet()
    begin(plan)
    jobs: list[str] = []
    before: SlurmExecutor | None = None
    try:
        for stage in chain(plan):
            before = _executor(plan, stage.name, before)
            before.run()
            if before.job_id != -1:
                jobs.append(str(before.job_id))
                write_json(plan.folder / JOBS, jobs)
    except subprocess.CalledProcessError as error:
        raise DataError(f"sbatch refused a job ({error}); its own message stands above") from error
    return jobs


def _executor(plan: Plan, name: str, depends: SlurmExecutor | None) -> SlurmExecutor:
    """Return the executor of one stage."""
    stage = next(stage for stage in chain(plan) if stage.name == name)
    chosen = plan.options.executor
    programs = shlex.quote(str(Path(chosen.venv or sys.prefix) / "bin"))
    return SlurmExecutor(
        steps_of(plan, stage),
        tasks=stage.tasks,
        time=chosen.time,
        partition=chosen.partition,
        cpus_per_task=chosen.cpus,
        mem_per_cpu_gb=chosen.memory_gb,
        workers=min(chosen.workers, stage.tasks) or -1,
        job_name=f"prepare-{name}",
        qos="",
        env_command=f"export PATH={programs}:$PATH PYTHONSAFEPATH=1 OMP_NUM_THREADS={chosen.cpus}",
        sbatch_args={"kill-on-invalid-dep": "yes", **chosen.sbatch},
        depends=depends,
        logging_dir=str(plan.logs / stage.log),
    )


def wait_for(plan: Plan, jobs: list[str]) -> None:
    """Return when the preparation is complete; says on stderr which stage is. Raises DataError when a task failed."""
    pause, most = POLL_SECONDS
    told: set[str] = set()
    while True:
        left = active(jobs)
        for stage in chain(plan):
            done = len(list((plan.logs / stage.log / "completions").glob("*")))
            if done >= stage.tasks and stage.name not in told:
                told.add(stage.name)
                say(f"{stage.name}: {done} tasks complete")
        if not left:
            return refuse_failure(plan)
        time.sleep(pause)
        pause = min(pause * 1.5, most)


def active(jobs: list[str]) -> list[str]:
    """Return those of the jobs that Slurm still has to run or is running."""
    left = []
    for job in jobs:
        command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode and "Invalid job id" not in asked.stderr:
            raise DataError(f"squeue failed ({asked.stderr.strip()}); start again when Slurm answers")
        if asked.stdout.split():
            left.append(job)
    return left


def _known(plan: Plan) -> list[str]:
    """Return the jobs of an earlier start."""
    try:
        return json.loads((plan.folder / JOBS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
