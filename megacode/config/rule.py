"""What a rule over several fields of a configuration is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from megacode.config.problem import Problem
from megacode.config.schema import RunConfig


@dataclass(frozen=True)
class Rule:
    """A check over the named fields of a configuration."""

    reads: tuple[str, ...]
    find: Callable[[RunConfig], Iterator[Problem]]


def without_effect(section: BaseModel, name: str, fields: Sequence[str], why: str) -> Iterator[Problem]:
    """A problem for each of `fields` that is set to something else than its default."""
    for field in fields:
        # By value, not by what was written: the configuration that a checkpoint keeps writes every field.
        if getattr(section, field) != type(section).model_fields[field].default:
            yield Problem(f"{name}.{field}", str(getattr(section, field)), f"has no effect {why}", "remove it")
