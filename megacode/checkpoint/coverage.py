"""Which elements of a logical tensor a stretch holds, and the proof that stretches make up the tensor once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, NamedTuple

from annotated_types import Ge, Le

from megacode.checkpoint.errors import Damage

Natural = Annotated[int, Ge(0), Le(1 << 62)]
Bounds = tuple[tuple[Natural, Natural], ...]


class Stretch(NamedTuple):
    """Elements `start` .. `stop`, in row-major order, of the rectangular part `bounds` of a tensor."""

    bounds: Bounds
    start: int
    stop: int


def elements_of(bounds: Bounds) -> int:
    """Elements of a rectangular part."""
    return math.prod(high - low for low, high in bounds)


def check_stretches(where: str, shape: tuple[int, ...], stretches: Sequence[Stretch]) -> None:
    """Raise Damage unless the stretches hold every element of the tensor exactly once.

    The parts that they are cut from must lie apart and have as many elements as the tensor; each must be cut without
    gap or overlap. From this it follows for whatever is read of it, in any layout.
    """
    by_part: dict[Bounds, list[Stretch]] = {}
    for stretch in stretches:
        if len(stretch.bounds) != len(shape) or not all(
            0 <= low < high <= length for (low, high), length in zip(stretch.bounds, shape, strict=True)
        ):
            raise Damage(f"{where}: a part {stretch.bounds} is not inside of its shape {shape}")
        by_part.setdefault(stretch.bounds, []).append(stretch)
    for bounds, cut in by_part.items():
        _check_cut(where, elements_of(bounds), sorted(cut))
    _check_apart(where, list(by_part))
    held = sum(elements_of(bounds) for bounds in by_part)
    if held != math.prod(shape):
        raise Damage(f"{where}: has {math.prod(shape)} elements, {held} are stored")


def _check_cut(where: str, elements: int, cut: Sequence[Stretch]) -> None:
    at = 0
    for stretch in cut:
        if stretch.start != at or stretch.stop <= stretch.start:
            raise Damage(f"{where}: elements {at} .. {stretch.start} of the part {stretch.bounds} are not stored once")
        at = stretch.stop
    if at != elements:
        raise Damage(f"{where}: of the {elements} elements of a part {at} are stored")


def _check_apart(where: str, parts: Sequence[Bounds]) -> None:
    for one, other in combinations(parts, 2):
        if all(low < high_too and low_too < high for (low, high), (low_too, high_too) in zip(one, other, strict=True)):
            raise Damage(f"{where}: the parts {one} and {other} hold the same elements")
