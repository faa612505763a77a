"""Line charts as inline SVG: light grid, labels at the end of each line, colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from megacode.metrics.axes import Axis, labelled, short, spanning

WIDTH, HEIGHT = 960, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 184, 14, 44
MOST_POINTS = 800
LABEL_HEIGHT = 17

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line: its name, its points from left to right, and the style sheet's class that colours it."""

    name: str
    points: tuple[Point, ...]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float


def line_chart(series: Sequence[Series], levels: Sequence[Level], y_label: str, from_zero: bool = False) -> Markup:
    """The chart of `series` over steps, with `levels` dashed across it. At least one series must have a point."""
    points = [point for one in series for point in one.points]
    across = spanning([step for step, _ in points], LEFT, WIDTH - RIGHT)
    across = Axis(min(step for step, _ in points), across.high, LEFT, WIDTH - RIGHT)
    values = [value for _, value in points] + [level.value for level in levels]
    up = spanning(values, HEIGHT - BOTTOM, TOP, from_zero)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} over steps">',
        *_grid(across, up, y_label),
        *(_level(level, up) for level in levels),
        *(_line(one, across, up) for one in series if one.points),
        *_labels(series, levels, up),
        "</svg>",
    ]
    return Markup("".join(parts))


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most `most` of the points (4 or more): the ends, and of each bucket the lowest and highest, so spikes stay."""
    if len(points) <= most:
        return tuple(points)
    inner, buckets = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept.extend(sorted(ends))
    return (*kept, points[-1])


def _grid(across: Axis, up: Axis, y_label: str) -> list[str]:
    parts = []
    for tick, text in labelled(up.ticks()):
        y = up.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in labelled(across.ticks(8)):
        x = across.place(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    middle, bottom = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6
    parts.append(f'<text class="axis" x="{middle}" y="{bottom}" text-anchor="middle">optimizer step</text>')
    turned = f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text class="axis" {turned} text-anchor="middle">{escape(y_label)}</text>')
    return parts


def _level(level: Level, up: Axis) -> str:
    y = up.place(level.value)
    return f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _line(series: Series, across: Axis, up: Axis) -> str:
    places = [(across.place(step), up.place(value), step, value) for step, value in thin(series.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    radius, kind = (4, "dot") if series.dots or len(places) == 1 else (5, "hover")
    circles = "".join(
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{escape(series.name)}, step {step:,.0f}: {value:,.6g}</title></circle>"
        for x, y, step, value in places
    )
    return f'<g class="series {series.style}"><polyline points="{path}"/>{circles}</g>'


def _labels(series: Sequence[Series], levels: Sequence[Level], up: Axis) -> list[str]:
    """Names at the right end of the lines, pushed apart where they would overlap."""
    wanted = [(up.place(one.points[-1][1]), one.style, one.name, one.points[-1][1]) for one in series if one.points]
    wanted += [(up.place(level.value), "muted", level.name, level.value) for level in levels]
    placed: list[str] = []
    y = float(TOP)
    room = HEIGHT - BOTTOM - LABEL_HEIGHT * (len(wanted) - 1)
    for index, (want, style, name, value) in enumerate(sorted(wanted)):
        y = max(y, min(want + 4, room + index * LABEL_HEIGHT))
        text = f"{escape(name)} {value:,.4g}" if abs(value) < 1000 else f"{escape(name)} {short(value)}"
        placed.append(f'<text class="label {style}" x="{WIDTH - RIGHT + 10}" y="{y:.1f}">{text}</text>')
        y += LABEL_HEIGHT
    return placed
