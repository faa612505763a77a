"""The files of a run folder, and the check that the files a run reads are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacode.config.problem import Problem
from megacode.config.schema import RunConfig
from megacode.data.shards.names import missing_parts, shard_prefixes


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
    for field, pattern in _shard_fields(config):
        if not (prefixes := shard_prefixes(pattern)):
            problems.append(Problem(field, repr(pattern), "no such shard", "make it with `megacode tokenize`"))
        for prefix in prefixes:
            if gone := missing_parts(prefix):
                rule = f"{', '.join(f'{prefix}{ending}' for ending in gone)} not found"
                problems.append(Problem(field, repr(pattern), rule, "make it with `megacode tokenize`"))
    if not any((Path(config.data.tokenizer) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        rule = "has no tokenizer.json or tokenizer.model"
        problems.append(Problem("data.tokenizer", repr(config.data.tokenizer), rule, "see `megacode tokenizer`"))
    if config.checkpoint.init_from and not (Path(config.checkpoint.init_from) / "manifest.json").is_file():
        rule = "is not a checkpoint folder (no manifest.json)"
        problems.append(Problem("checkpoint.init_from", repr(config.checkpoint.init_from), rule))
    return problems


def _shard_fields(config: RunConfig) -> list[tuple[str, str]]:
    """(field, prefix or pattern) of every source's shards that the configuration names."""
    data = config.data
    if not data.sources:
        named = [("data.train", data.train), ("data.validation", data.validation)]
    else:
        named = [
            (f"data.sources.{place}.{field}", pattern)
            for place, source in enumerate(data.sources)
            for field, pattern in (("shards", source.shards), ("validation", source.validation))
        ]
    return [(field, pattern) for field, pattern in named if pattern]
