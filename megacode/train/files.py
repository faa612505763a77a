"""The files of a run folder, and the check that the files a run reads are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacode.config.problem import Problem
from megacode.config.schema import RunConfig


@dataclass(frozen=True)
class RunFolder:
    """Names inside `checkpoint.folder`. STOPPED and FINISHED tell a launcher how the last start ended."""

    path: Path

    @property
    def metrics(self) -> Path:
        """JSON lines, one per step, validation or start."""
        return self.path / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        """What each pipeline stage did when, in the last step."""
        return self.path / "timeline.json"

    @property
    def stopped(self) -> Path:
        """There when the run was asked to stop, has saved and waits to be started again."""
        return self.path / "STOPPED"

    @property
    def finished(self) -> Path:
        """There when every step is done."""
        return self.path / "FINISHED"


def missing_files(config: RunConfig) -> list[Problem]:
    """A problem for each file that the run reads and that is not there."""
    problems = []
    shards = {"data.train": config.data.train, "data.validation": config.data.validation}
    for field, prefix in shards.items():
        gone = [suffix for suffix in (".bin", ".idx", ".json") if not Path(prefix + suffix).is_file()]
        if prefix and gone:
            rule = f"{', '.join(prefix + suffix for suffix in gone)} not found"
            problems.append(Problem(field, repr(prefix), rule, "make it with `megacode tokenize`"))
    if not (Path(config.data.tokenizer) / "tokenizer.json").is_file():
        rule = "has no tokenizer.json"
        problems.append(Problem("data.tokenizer", repr(config.data.tokenizer), rule, "see `megacode tokenizer`"))
    if config.checkpoint.init_from and not (Path(config.checkpoint.init_from) / "manifest.json").is_file():
        rule = "is not a checkpoint folder (no manifest.json)"
        problems.append(Problem("checkpoint.init_from", repr(config.checkpoint.init_from), rule))
    return problems
