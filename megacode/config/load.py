"""From a TOML file and `key=value` overrides to a RunConfig, or to the list of everything that is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from megacode.config.problem import Problem, render_problems
from megacode.config.rules import find_problems
from megacode.config.schema import RunConfig
from megacode.errors import MegacodeError

Table = dict[str, Any]


class ConfigError(MegacodeError):
    """A configuration that cannot run; `problems` holds all of its mistakes."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[Problem], world_size: int | None = None) -> None:
        self.source, self.problems, self.world_size = source, tuple(problems), world_size
        super().__init__(render_problems(source, problems, world_size))


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path`, apply `section.key=value` overrides (TOML values; a bare word is a string) and check everything.

    Raises ConfigError with every problem found, in the file, in the fields and between them.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), [Problem("file", str(path), "does not exist", "examples/ has some")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(str(path), [Problem("file", str(path), f"is not readable TOML: {error}")]) from None
    problems = [problem for text in overrides for problem in _override(table, text)]
    return parse_config(table, str(path), problems)


def parse_config(table: Table, source: str, problems: Sequence[Problem] = ()) -> RunConfig:
    """Turn nested tables into a RunConfig; raises ConfigError with `problems` and all that are found here."""
    found = list(problems)
    try:
        config = RunConfig.model_validate(table)
        broken: frozenset[str] = frozenset()
    except ValidationError as error:
        details = error.errors(include_url=False)
        broken = frozenset(_name(detail) for detail in details)
        found += [_field_problem(detail) for detail in details if not _follows(detail, broken)]
        config = _patched(table, details)
    found += find_problems(config, broken)
    if found:
        raise ConfigError(source, found, config.parallel.world_size)
    return config


def _override(table: Table, text: str) -> Iterator[Problem]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        yield Problem("override", repr(text), "must be section.key=value", "for example parallel.tp=2")
        return
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, leaf = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            yield Problem("override", repr(text), f"{section} is a value, not a section")
            return
    table[leaf] = parsed


def _name(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"])


def _field_problem(detail: ErrorDetails) -> Problem:
    name = _name(detail)
    if detail["type"] == "extra_forbidden":
        return Problem(name, "", "unknown key", _did_you_mean(name))
    if detail["type"] == "missing":
        return Problem(name, "", "is missing", "it has no default")
    message = detail["msg"]
    return Problem(name, repr(detail["input"]), message[0].lower() + message[1:])


def _field_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _field_names(field.annotation, f"{prefix}{name}.")


def _follows(detail: ErrorDetails, broken: frozenset[str]) -> bool:
    """Whether a field is missing only because the one that fills it is broken."""
    return detail["type"] == "missing" and _DERIVED.get(_name(detail)) in broken


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, list(_field_names(RunConfig)), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "docs/configuration.md lists the keys"


# Fields that are filled from another one: where that one is broken, their absence is no mistake of its own.
_DERIVED: Mapping[str, str] = MappingProxyType({"model.ffn": "model.hidden", "model.init_std": "model.hidden"})

# Stand-ins for required fields that are missing or broken, so that the rules on all other fields still run.
_STAND_INS: Mapping[str, Any] = MappingProxyType(
    {
        "model.layers": 1024,
        "model.hidden": 1024,
        "model.heads": 1,
        "data.train": "missing",
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
