"""Who may import whom: a room of megacode knows the rooms on lower floors, and nobody beside or above it.

Imports inside functions, under TYPE_CHECKING, relative ones, and import_module with a literal name count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

# docs/architecture.md; quickstart.py chains the public commands and stands above the rooms.
FLOORS = MappingProxyType(
    {
        "config": 0,
        "layout": 0,
        "kernels": 0,
        "console": 0,
        "errors": 0,
        "plan": 1,
        "parallel": 1,
        "data": 1,
        "metrics": 1,
        "layers": 2,
        "model": 3,
        "pipeline": 4,
        "optim": 4,
        "checkpoint": 5,
        "train": 6,
        "evaluate": 6,
        "prove": 7,
        "quickstart": 8,
    }
)
FOR_ALL = frozenset({"console", "errors", "kernels"})  # on floor 0, and known to the others there
ENTRANCES = frozenset({"cli", "__main__"})  # import anything; nothing but __main__ imports them
WITHOUT_TORCH = frozenset({"config", "layout", "plan", "metrics", "console", "errors"})


def check_floors(source: Any) -> Iterator[Any]:
    """Findings of a file of megacode (a checker.Source) that imports what its room must not know."""
    room = source.inner.partition("/")[0].removesuffix(".py")
    if not source.inner or room in ENTRANCES:
        return
    if room != "__init__" and room not in FLOORS:
        yield source.found(source.tree, "floors", f"room {room} has no floor; give it one in tests/house/floors.py")
        return
    for node, module in _imports(source):
        if module.partition(".")[0] == "torch" and room in WITHOUT_TORCH:
            yield source.found(node, "torch", f"{room} works without torch")
        if module.partition(".")[0] != "megacode":
            continue
        other = module.split(".")[1] if "." in module else "__init__"
        if problem := _problem(room, other):
            yield source.found(node, "floors", problem)


def _problem(room: str, other: str) -> str:
    """Why `room` must not import `other`, or the empty string."""
    if room == "__init__":
        return f"megacode/__init__.py imports nothing, and here {other}"
    if other in (room, "__init__"):
        return ""
    if other in ENTRANCES:
        return f"{room} imports {other}, which is above everything"
    if other not in FLOORS:
        return f"{room} imports {other}, which has no floor; give it one in tests/house/floors.py"
    if other in FOR_ALL and room not in FOR_ALL:
        return ""
    if FLOORS[other] < FLOORS[room]:
        return ""
    where = "beside it" if FLOORS[other] == FLOORS[room] else "above it"
    return f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]}), {where}; move what both need down"


def _imports(source: Any) -> Iterator[tuple[ast.AST, str]]:
    """Every imported module by its full name; `from megacode import x` counts as megacode.x."""
    package = ["megacode", *source.inner.removeprefix("megacode/").split("/")[:-1]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            whole = [f"{module}.{alias.name}" for alias in node.names] if module == "megacode" else [module]
            yield from ((node, name) for name in whole)
        elif isinstance(node, ast.Call) and _named(node.func) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node, first.value


def _named(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
