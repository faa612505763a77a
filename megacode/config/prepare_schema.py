"""The shape of a preparation's configuration: frozen pydantic models, units in every field's description.

Rules that span fields live in `prepare_rules.py`. The data room knows none of this: it gets plain tables.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from megacode.config.schema import Section


class SourceConfig(Section):
    """A folder of code, a table file (.jsonl, .jsonl.gz, .jsonl.zst, .parquet), or a folder of nothing but those."""

    path: str = Field(min_length=1, description="folder or file")
    kind: Literal["code", "issue", "commit", "notebook", "notebook-script"] = Field(
        default="code", description="what its files or rows are"
    )
    name: str = Field(default="", description="under which the report counts its documents")
    repository: str = Field(default="", description="of documents that name none and are in no git checkout")
    licence: str = Field(default="", description="SPDX name, for documents that have none and whose checkout has none")


class OutputConfig(Section):
    """Where the result goes: train/, validation/ and manifest.json, and work/ until they are complete."""

    folder: str = Field(min_length=1, description="folder to write")


class FiltersConfig(Section):
    """Which documents stay, by The Stack's published rules and by licence."""

    rules: Literal["stack-v1", "stack-v2", "none"] = Field(
        default="stack-v1", description="rules of The Stack, on code"
    )
    licences: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="SPDX names allowed, or `permissive` for The Stack's list; all unless given",
    )
    unlicensed: Literal["keep", "drop"] = Field(
        default="keep", description="what becomes of documents without a licence"
    )


class DeduplicateConfig(Section):
    """Of documents that are equal, or nearly so, one stays: most stars, then newest, longest, first by path."""

    exact: bool = Field(default=True, description="drop documents whose content is another's")
    near: bool = Field(default=True, description="drop documents whose 5-grams are nearly another's (MinHash)")
    threshold: float = Field(default=0.7, gt=0.0, lt=1.0, description="Jaccard similarity from which they are")
    permutations: int = Field(default=256, ge=16, le=4096, description="numbers in a MinHash signature")


class RedactConfig(Section):
    """E-mail and IP addresses, keys and passwords."""

    enabled: bool = Field(default=True, description="replace them; equal values in a document by equal replacements")


class DecontaminateConfig(Section):
    """Texts that a model will be tested on."""

    files: tuple[str, ...] = Field(
        default=(), strict=False, description="benchmarks: documents that hold one of their texts are dropped"
    )


class FormatConfig(Section):
    """How documents are written: as they are, or with the special tokens of a model family."""

    family: Literal["plain", "starcoder", "starcoder2"] = Field(
        default="plain", description="plain: no special tokens; issues, commits and notebooks need some"
    )
    repository_rate: float = Field(default=0.2, ge=0.0, le=1.0, description="starcoder: share of files with <reponame>")
    path_rate: float = Field(default=0.2, ge=0.0, le=1.0, description="starcoder: share of files with <filename>")
    stars_rate: float = Field(default=0.2, ge=0.0, le=1.0, description="starcoder: share of files with <gh_stars>")
    repositories: bool = Field(default=False, description="starcoder2: all files of a repository in one document")
    most_characters: PositiveInt = Field(default=10_000_000, description="of a repository's document; then another one")
    seed: NonNegativeInt = Field(default=1234, description="of all that is drawn")


class SplitConfig(Section):
    """Which documents validate: by a hash of the content, so none changes sides as others come."""

    validation_share: float = Field(default=0.03, ge=0.0, lt=1.0, description="share of documents")


class LimitsConfig(Section):
    """What input may cost, and what becomes of damaged input."""

    most_file_bytes: PositiveInt = Field(default=10_000_000, description="longer documents are dropped, bytes")
    most_line_bytes: PositiveInt = Field(default=100_000_000, description="of a .jsonl; a longer line is damage, bytes")
    most_unpacked_ratio: PositiveInt = Field(
        default=200, description="unpacked bytes for each packed byte, from 16 MB on"
    )
    on_damage: Literal["fail", "skip"] = Field(
        default="fail", description="fail: stop at damaged input; skip: count it"
    )
    files: PositiveInt | None = Field(default=None, description="read only the first files; all unless given")


class ExecutorConfig(Section):
    """Who does the work. The result does not depend on any of this."""

    kind: Literal["local", "slurm", "ray"] = Field(default="local", description="this machine, job arrays, or Ray")
    tasks: NonNegativeInt = Field(default=0, description="tasks that read the input; 0: one for 256 MB of source")
    workers: NonNegativeInt = Field(default=0, description="tasks at once; 0: local one for each core, else all")
    partition: str = Field(default="", description="of Slurm; empty: the cluster's default")
    time: str = Field(default="24:00:00", description="limit of a Slurm task")
    cpus: PositiveInt = Field(default=1, description="of a task, Slurm and Ray")
    memory_gb: PositiveInt = Field(default=4, description="of each of those CPUs, GB")
    venv: str = Field(default="", description="Python environment of Slurm tasks; empty: the one that submits")
    sbatch: dict[str, str] = Field(default={}, description="more options of sbatch, such as account")


class PrepareConfig(Section):
    """A whole preparation, read from one TOML file."""

    sources: tuple[SourceConfig, ...] = Field(strict=False, min_length=1, description="where documents come from")
    output: OutputConfig
    filters: FiltersConfig = FiltersConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    redact: RedactConfig = RedactConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    format: FormatConfig = FormatConfig()
    split: SplitConfig = SplitConfig()
    limits: LimitsConfig = LimitsConfig()
    executor: ExecutorConfig = ExecutorConfig()

    def tables(self) -> dict[str, Any]:
        """The plain tables that `megacode.data.prepare.options_from` takes."""
        table = self.model_dump()
        table["out"] = table.pop("output")["folder"]
        table["redact"] = table["redact"]["enabled"]
        table["decontaminate"] = table["decontaminate"]["files"]
        table["validation_share"] = table.pop("split")["validation_share"]
        return table
