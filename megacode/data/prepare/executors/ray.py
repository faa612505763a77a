"""The stages as tasks of a Ray cluster: the one that runs, else one on this machine. Ray is not installed by us."""

from __future__ import annotations

from datatrove.executor.ray import RayPipelineExecutor

from megacode.console import progress
from megacode.data.errors import DataError
from megacode.data.prepare.executors.step import quiet, refuse_failure, steps_of
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.stages.chain import chain


def run_ray(plan: Plan) -> None:
    """Run all stages of the plan, one after another. Raises DataError without Ray, and when a task failed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DataError(
            "executor.kind=ray, but Ray is not installed: pip install ray, or choose local or slurm"
        ) from error
    quiet()
    ray.init(ignore_reinit_error=True, logging_level="ERROR", log_to_driver=False)
    chosen = plan.options.executor
    for number, stage in enumerate(stages := chain(plan), start=1):
        executor = RayPipelineExecutor(
            steps_of(plan, stage),
            tasks=stage.tasks,
            workers=min(chosen.workers, stage.tasks) or -1,
            logging_dir=str(plan.logs / stage.log),
            cpus_per_task=chosen.cpus,
            mem_per_cpu_gb=chosen.memory_gb,
        )
        with progress(f"{number}/{len(stages)} {stage.name}") as advance:
            executor.run()
            advance(1)
        if executor.get_incomplete_ranks():
            refuse_failure(plan)
