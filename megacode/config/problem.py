"""A mistake in a configuration, told as rule, value and remedy; the answer is always the whole list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: which field, the value found (as written), the rule it breaks and what to do."""

    field: str
    value: str
    rule: str
    hint: str = ""

    def __str__(self) -> str:
        left = f"{self.field} = {self.value}" if self.value else self.field
        return f"{left:<32}  {self.rule}" + (f"; {self.hint}" if self.hint else "")


def render_problems(source: str, problems: Sequence[Problem], world_size: int | None = None) -> str:
    """The list as a person reads it: a line that counts, then a line per problem."""
    count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
    where = "" if world_size is None else f" (world size {world_size})"
    return "\n".join([f"{source}: {count}{where}", *(f"  {problem}" for problem in problems)])
