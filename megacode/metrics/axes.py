"""Where the ticks of an axis go, how its numbers read, and how a value becomes a place in a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear map from values `low` .. `high` to places `start` .. `stop` in picture units."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        """Where `value` is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """At most about `most` round values between low and high."""
        step = _round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def spanning(values: list[float], start: float, stop: float, from_zero: bool = False) -> Axis:
    """An axis over all `values`, widened to round numbers; a single value gets room around it."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if from_zero else low
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-9):
        low, high = (min(low, 0.0), high * 1.25) if high > 0 else (low - 1.0, high + 1.0)
    step = _round_step((high - low) / 5)
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, stop)


def labelled(ticks: list[float]) -> list[tuple[float, str]]:
    """Each tick with how it reads: 2.5k under 10k, all in the unit of the largest."""
    scale, letter = _unit(max((abs(tick) for tick in ticks), default=0.0))
    return [(tick, f"{tick / scale:,.6g}{letter if tick else ''}") for tick in ticks]


def short(value: float) -> str:
    """A number in a few characters: 0.5, 9,651, 25.3k, 1.5M."""
    scale, letter = _unit(abs(value))
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e4 else f"{value / scale:.4g}{letter}"


def _unit(value: float) -> tuple[float, str]:
    units = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
    return next(((scale, letter) for least, scale, letter in units if value >= least), (1.0, ""))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))
