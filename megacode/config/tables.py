"""From a TOML file and `key=value` overrides to nested tables, and from what pydantic finds to Problems.

What the configurations of a run and of a preparation share.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from megacode.config.problem import Problem, render_problems
from megacode.errors import MegacodeError

Table = dict[str, Any]


class ConfigError(MegacodeError):
    """A configuration that cannot run; `problems` holds all of its mistakes."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[Problem], world_size: int | None = None) -> None:
        self.source, self.problems, self.world_size = source, tuple(problems), world_size
        super().__init__(render_problems(source, problems, world_size))


def read_table(path: Path, overrides: Sequence[str]) -> tuple[Table, list[Problem]]:
    """Return the tables of `path` with `section.key=value` overrides (TOML values; a bare word is a string).

    With them, what is wrong with the overrides. Raises ConfigError when the file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), [Problem("file", str(path), "does not exist", "examples/ has some")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(str(path), [Problem("file", str(path), f"is not readable TOML: {error}")]) from None
    return table, apply_overrides(table, overrides)


def apply_overrides(table: Table, overrides: Sequence[str]) -> list[Problem]:
    """Put the overrides into `table`, and return what is wrong with them."""
    return [problem for text in overrides for problem in _override(table, text)]


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


def field_name(detail: ErrorDetails) -> str:
    """Return the field that pydantic complains about, as section.key."""
    return ".".join(str(part) for part in detail["loc"])


def field_problem(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    """Return what pydantic found in a table of `model`, in our words."""
    name = field_name(detail)
    if detail["type"] == "extra_forbidden":
        return Problem(name, "", "unknown key", _did_you_mean(name, model))
    if detail["type"] == "missing":
        return Problem(name, "", "is missing", "it has no default")
    message = detail["msg"]
    return Problem(name, repr(detail["input"]), message[0].lower() + message[1:])


def _field_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _field_names(kind, f"{prefix}{name}.")


def _did_you_mean(name: str, model: type[BaseModel]) -> str:
    plain = ".".join(part for part in name.split(".") if not part.isdigit())  # the places of a list of tables
    close = difflib.get_close_matches(plain, list(_field_names(model)), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "docs/configuration.md lists the keys"
