"""From a TOML file and `key=value` overrides to a RunConfig, or to the list of everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megacode.config.problem import Problem
from megacode.config.rules import find_problems
from megacode.config.schema import RunConfig
from megacode.config.tables import ConfigError, Table, field_name, field_problem, read_table


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path`, apply `section.key=value` overrides (TOML values; a bare word is a string) and check everything.

    Raises ConfigError with every problem found, in the file, in the fields and between them.
    """
    table, problems = read_table(path, overrides)
    return parse_config(table, str(path), problems)


def parse_config(table: Table, source: str, problems: Sequence[Problem] = ()) -> RunConfig:
    """Turn nested tables into a RunConfig; raises ConfigError with `problems` and all that are found here."""
    found = list(problems)
    try:
        config = RunConfig.model_validate(table)
        broken: frozenset[str] = frozenset()
    except ValidationError as error:
        details = error.errors(include_url=False)
        broken = frozenset(field_name(detail) for detail in details)
        found += [field_problem(detail, RunConfig) for detail in details if not _follows(detail, broken)]
        config = _patched(table, details)
    found += find_problems(config, broken)
    if found:
        raise ConfigError(source, found, config.parallel.world_size)
    return config


def _follows(detail: ErrorDetails, broken: frozenset[str]) -> bool:
    """Whether a field is missing only because the one that fills it is broken."""
    return detail["type"] == "missing" and _DERIVED.get(field_name(detail)) in broken


# Fields that are filled from another one: where that one is broken, their absence is no mistake of its own.
_DERIVED: Mapping[str, str] = MappingProxyType({"model.ffn": "model.hidden", "model.init_std": "model.hidden"})

# Stand-ins for required fields that are missing or broken, so that the rules on all other fields still run.
_STAND_INS: Mapping[str, Any] = MappingProxyType(
    {
        "model.layers": 1024,
        "model.hidden": 1024,
        "model.heads": 1,
        "data.tokenizer": "missing",
        "data.sequence": 1,
        "optim.lr": 1.0,
        "train.steps": 1 << 40,
        "train.global_batch": 1,
    }
)


def _patched(table: Table, details: Sequence[ErrorDetails]) -> RunConfig:
    """The configuration with every broken field replaced by its default or a stand-in."""
    patched = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for detail in details:
        *sections, leaf = (str(part) for part in detail["loc"])
        parent: Any = patched
        for section in sections:
            if not isinstance(parent.get(section), dict):
                parent[section] = {}
            parent[section] = parent = dict(parent[section])
        parent.pop(leaf, None)
    for name, value in _STAND_INS.items():
        section, leaf = name.split(".")
        if not isinstance(patched.get(section), dict):
            patched[section] = {}
        patched[section].setdefault(leaf, value)
    return RunConfig.model_validate(patched)
