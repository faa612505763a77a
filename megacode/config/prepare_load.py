"""From a TOML file and `key=value` overrides to a PrepareConfig, or to the list of everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from megacode.config.prepare_schema import FormatConfig, PrepareConfig
from megacode.config.problem import Problem
from megacode.config.tables import ConfigError, Table, apply_overrides, field_name, field_problem, read_table

COMMAND_LINE = "prepare"
_STAND_INS: Mapping[str, Any] = MappingProxyType({"sources": [{"path": "missing"}], "output": {"folder": "missing"}})
_NEEDS_TOKENS = MappingProxyType(
    {
        "issue": ("starcoder", "starcoder2"),
        "commit": ("starcoder",),
        "notebook": ("starcoder", "starcoder2"),
        "notebook-script": ("starcoder", "starcoder2"),
    }
)


def load_prepare(
    path: Path | None, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> PrepareConfig:
    """Read `path`, or start from nothing where that is None, and apply `given` keys and then overrides.

    `given` are values by section.key, such as the command line's own options. Raises ConfigError with every problem
    found, in the file, in the fields and between them.
    """
    table, problems = ({}, []) if path is None else read_table(path, ())
    for key, value in (given or {}).items():
        *sections, leaf = key.split(".")
        place: Any = table
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    problems += apply_overrides(table, overrides)
    return _parse(table, COMMAND_LINE if path is None else str(path), problems)


def _parse(table: Table, source: str, problems: list[Problem]) -> PrepareConfig:
    broken: frozenset[str] = frozenset()
    try:
        config = PrepareConfig.model_validate(table)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [field_problem(detail, PrepareConfig) for detail in details]
        broken = frozenset(field_name(detail).partition(".")[0] for detail in details)
        sound = {key: value for key, value in table.items() if key not in broken}
        config = PrepareConfig.model_validate({**_STAND_INS, **sound})
    problems += _problems(config, broken)
    if problems:
        raise ConfigError(source, problems)
    return config


def _problems(config: PrepareConfig, broken: frozenset[str]) -> Iterator[Problem]:
    """What is wrong between the fields of sections that are sound by themselves."""
    if not broken & {"sources", "format"}:
        yield from _kinds(config)
    if "format" not in broken:
        yield from _format(config.format)
    if "deduplicate" not in broken and not config.deduplicate.near:
        yield from _idle(config.deduplicate, "deduplicate", ("threshold", "permutations"), "with near = false")


def _kinds(config: PrepareConfig) -> Iterator[Problem]:
    for number, source in enumerate(config.sources):
        able = _NEEDS_TOKENS.get(source.kind, ())
        if able and config.format.family not in able:
            rule = f"needs the special tokens of {' or '.join(able)}, and format.family is {config.format.family}"
            yield Problem(f"sources.{number}.kind", source.kind, rule, "change one of them")


def _format(chosen: FormatConfig) -> Iterator[Problem]:
    if chosen.repositories and chosen.family != "starcoder2":
        yield Problem("format.repositories", "true", "is a format of starcoder2", "set format.family to it")
    if not chosen.repositories:
        yield from _idle(chosen, "format", ("most_characters",), "without format.repositories")
    if chosen.family != "starcoder":
        rates = ("repository_rate", "path_rate", "stars_rate")
        yield from _idle(chosen, "format", rates, f"with format.family {chosen.family}")


def _idle(section: BaseModel, name: str, fields: Sequence[str], why: str) -> Iterator[Problem]:
    """A problem for each of `fields` that is set to something else than its default.

    Slurm's settings are none of them: one file serves a first try on one machine, and then the cluster.
    """
    for field in fields:
        if getattr(section, field) != type(section).model_fields[field].default:
            yield Problem(f"{name}.{field}", str(getattr(section, field)), f"has no effect {why}", "remove it")
