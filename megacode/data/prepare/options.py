"""What to prepare and how: plain frozen dataclasses, one for each table of the configuration.

They know no configuration file; `options_from` makes them of plain tables, which is also how a plan keeps them on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacode.data.compressed import Bounds
from megacode.data.errors import DataError
from megacode.data.opening import shown

KINDS = ("code", "issue", "commit", "notebook", "notebook-script")
PLAIN, STARCODER, STARCODER2 = "plain", "starcoder", "starcoder2"


@dataclass(frozen=True)
class Source:
    """A place of documents: a folder of code, a table file, or a folder of table files.

    `kind` is what its rows or files are. `repository` and `licence` are for documents that name none themselves.
    """

    path: str
    kind: str = "code"
    name: str = ""
    repository: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Filters:
    """Which documents stay: by a rule set ("none" for none) and by licence ("" in the list is not asked for).

    `licences` are SPDX names or "permissive"; an empty list allows every licence. `unlicensed`: keep or drop.
    """

    rules: str = "stack-v1"
    licences: tuple[str, ...] = ()
    unlicensed: str = "keep"


@dataclass(frozen=True)
class Deduplicate:
    """Which duplicates go. `threshold` of Jaccard similarity, in (0, 1); `permutations` of a MinHash signature."""

    exact: bool = True
    near: bool = True
    threshold: float = 0.7
    permutations: int = 256


@dataclass(frozen=True)
class Format:
    """How documents are written: plain, or with the special tokens of a family.

    Rates in [0, 1] of the facts in front of a StarCoder file. `repositories`: StarCoder2's, all files of a repository
    in one document of at most `most_characters`.
    """

    family: str = PLAIN
    repository_rate: float = 0.2
    path_rate: float = 0.2
    stars_rate: float = 0.2
    repositories: bool = False
    most_characters: int = 10_000_000
    seed: int = 1234


@dataclass(frozen=True)
class Limits:
    """What input may cost, and what becomes of input that is damaged: `on_damage` is fail or skip.

    Bytes are of a document's file, of a line of a table; `files` reads only the first files, None all.
    """

    most_file_bytes: int = 10_000_000
    most_line_bytes: int = 100_000_000
    most_unpacked_ratio: int = 200
    on_damage: str = "fail"
    files: int | None = None

    @property
    def bounds(self) -> Bounds:
        """What reading a table may cost."""
        return Bounds(self.most_line_bytes, self.most_unpacked_ratio)


@dataclass(frozen=True)
class Executor:
    """Who does the work: local, slurm or ray. The result depends on none of this.

    `tasks` read the input, `workers` are at work at once; 0 lets the machine decide. The others are for Slurm and Ray:
    `time` of a task, `cpus` of a task, `memory_gb` of a CPU; `venv` is the Python environment of the tasks, by default
    the one that asks; `sbatch` are more options of sbatch.
    """

    kind: str = "local"
    tasks: int = 0
    workers: int = 0
    partition: str = ""
    time: str = "24:00:00"
    cpus: int = 1
    memory_gb: int = 4
    venv: str = ""
    sbatch: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PrepareOptions:
    """A whole preparation: `sources` into the folder `out`.

    `decontaminate` are files of texts that must not be trained on, `validation_share` of the documents in [0, 1).
    """

    out: Path
    sources: tuple[Source, ...]
    filters: Filters = Filters()
    deduplicate: Deduplicate = Deduplicate()
    redact: bool = True
    decontaminate: tuple[str, ...] = ()
    format: Format = Format()
    validation_share: float = 0.03
    limits: Limits = Limits()
    executor: Executor = field(default_factory=Executor)

    def __post_init__(self) -> None:
        if not self.sources:
            raise DataError("nothing to prepare: name at least one source")
        if not 0.0 <= self.validation_share < 1.0:
            raise DataError(f"validation_share must be in [0, 1); found {self.validation_share}")
        if not 0.0 < self.deduplicate.threshold < 1.0:
            raise DataError(f"the similarity threshold must be in (0, 1); found {self.deduplicate.threshold}")
        if not 16 <= self.deduplicate.permutations <= 4096:
            raise DataError(f"permutations must be in [16, 4096]; found {self.deduplicate.permutations}")
        if self.limits.files is not None and self.limits.files < 1:
            raise DataError(f"limits.files must be at least 1, or left out; found {self.limits.files}")


def options_of(source: Path, out: Path, **others: Any) -> PrepareOptions:
    """Return the options for one source of code; `others` are fields of PrepareOptions."""
    return PrepareOptions(Path(out), (Source(str(source)),), **others)


def options_from(table: Mapping[str, Any]) -> PrepareOptions:
    """Return the options that a plain table holds, as `to_table` writes it. Raises DataError for unknown values."""
    given = dict(table)
    given["out"] = Path(given["out"])
    given["sources"] = tuple(_made(Source, source) for source in given["sources"])
    given["decontaminate"] = tuple(given.get("decontaminate", ()))
    for name, kind in (("filters", Filters), ("deduplicate", Deduplicate), ("format", Format), ("limits", Limits)):
        given[name] = _made(kind, given.get(name, {}))
    given["executor"] = _made(Executor, given.get("executor", {}))
    return PrepareOptions(**given)


def to_table(options: PrepareOptions) -> dict[str, Any]:
    """Return the options as plain tables, fit for JSON."""
    return {**asdict(options), "out": str(options.out)}


def settings(options: PrepareOptions) -> dict[str, Any]:
    """Return what the result depends on besides the input's content: all but where it goes and who does the work."""
    table = to_table(options)
    del table["out"], table["executor"]
    for source in table["sources"]:
        source["path"] = shown(Path(source["path"]).resolve())
    return table


def _made(kind: type, table: Mapping[str, Any]) -> Any:
    """Return the dataclass of a table; lists become tuples."""
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})
