"""A stage of a preparation as a step of datatrove's pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from megacode.data.errors import DataError
from megacode.data.prepare.plan import Plan, load_plan
from megacode.data.prepare.stages.chain import STAGES, Stage, chain
from megacode.data.prepare.writing import replacing
from megacode.errors import MegacodeError


class StageStep(PipelineStep):
    """Runs one task of a stage of the plan in `folder`; names and paths only, so that it travels to other machines."""

    type = "megacode"

    def __init__(self, name: str, folder: str) -> None:
        super().__init__()
        self.name, self.folder = name, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Do task `rank`; what the user must know about a failure is kept where the one who waits looks."""
        plan = load_plan(Path(self.folder))
        told = plan.errors / f"{self.name}-{rank:05d}.txt"
        try:
            STAGES[self.name](plan, rank)
        except MegacodeError as error:
            with replacing(told) as file:
                file.write(str(error).encode("utf-8", "replace"))
            raise
        told.unlink(missing_ok=True)
        self.stat_update("tasks")
        return data


def steps_of(plan: Plan, stage: Stage) -> list[PipelineStep]:
    """Return the pipeline of a stage."""
    return [StageStep(stage.name, str(plan.folder))]


def refuse_failure(plan: Plan) -> None:
    """Raise DataError with the first failed task's message, or with what is not complete."""
    for told in sorted(plan.errors.glob("*.txt")):
        raise DataError(told.read_text(encoding="utf-8"))
    for stage in chain(plan):
        folder = plan.logs / stage.log
        done = len(list((folder / "completions").glob("*")))
        if done < stage.tasks:
            raise DataError(
                f"{stage.name}: {stage.tasks - done} of {stage.tasks} tasks did not end well; {folder} has their logs. "
                "Mend the cause and start again: what is complete is kept"
            )


def quiet() -> None:
    """Keep datatrove's messages out of stderr; what a task does stays in its log file."""
    logger.remove()
