"""Ranks and their coordinates on the tensor (tp), pipeline (pp) and data (dp) axes, as arithmetic.

The order names the fastest axis first. `tp-dp-pp` is Megatron's: a tensor group is neighbouring ranks, a pipeline
stage is a contiguous block. `tp-pp-dp` keeps one whole replica on neighbouring ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

AXES = ("tp", "pp", "dp")


class Coordinates(NamedTuple):
    """A rank's place on each axis."""

    tp: int
    pp: int
    dp: int


@dataclass(frozen=True)
class Topology:
    """Sizes of the axes and their order; everything else follows."""

    tp: int
    pp: int
    dp: int
    order: str = "tp-dp-pp"

    def __post_init__(self) -> None:
        if sorted(self.order.split("-")) != sorted(AXES):
            raise ValueError(f"order {self.order!r} must name tp, pp and dp once each, fastest first, as in tp-dp-pp")
        if min(self.tp, self.pp, self.dp) < 1:
            raise ValueError(f"axis sizes must be at least 1, not tp {self.tp}, pp {self.pp}, dp {self.dp}")

    @property
    def world_size(self) -> int:
        """Ranks in the run."""
        return self.tp * self.pp * self.dp

    def size(self, axis: str) -> int:
        """Ranks along one axis."""
        return {"tp": self.tp, "pp": self.pp, "dp": self.dp}[axis]

    def coords(self, rank: int) -> Coordinates:
        """Where `rank` sits. Raises ValueError outside 0 .. world_size - 1."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside a world of {self.world_size} ranks")
        place = {}
        for axis in self.order.split("-"):
            rank, place[axis] = divmod(rank, self.size(axis))
        return Coordinates(**place)

    def rank(self, place: Coordinates) -> int:
        """The rank that sits at `place`; the inverse of `coords`."""
        rank = 0
        for axis in reversed(self.order.split("-")):
            rank = rank * self.size(axis) + getattr(place, axis)
        return rank

    def group(self, rank: int, *axes: str) -> tuple[int, ...]:
        """The ranks that differ from `rank` along `axes` only, itself included, in ascending order."""
        own, fixed = self.coords(rank), _others(axes)
        along = [(getattr(own, axis),) if axis in fixed else range(self.size(axis)) for axis in AXES]
        return tuple(sorted(self.rank(Coordinates(*place)) for place in product(*along)))

    def groups(self, *axes: str) -> tuple[tuple[int, ...], ...]:
        """All groups along `axes`; together they hold every rank once."""
        found: dict[tuple[int, ...], list[int]] = {}
        fixed = _others(axes)
        for rank in range(self.world_size):
            place = self.coords(rank)
            key = tuple(getattr(place, axis) for axis in fixed)
            found.setdefault(key, []).append(rank)
        return tuple(tuple(members) for members in found.values())

    def peer(self, rank: int, stage: int) -> int:
        """The rank of pipeline stage `stage` with the tp and dp coordinates of `rank`."""
        return self.rank(self.coords(rank)._replace(pp=stage))


def _others(axes: tuple[str, ...]) -> list[str]:
    """The axes that are not named. Raises ValueError for a name that is not an axis, which would group nothing."""
    if unknown := set(axes) - set(AXES):
        raise ValueError(f"unknown axis {', '.join(sorted(unknown))}; the axes are {', '.join(AXES)}")
    return [axis for axis in AXES if axis not in axes]
