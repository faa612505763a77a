"""The pipeline of one step as inline SVG: a row per stage, a box per pass, and what is left of the row is waiting."""

from __future__ import annotations

from markupsafe import Markup

from megacode.metrics.axes import Axis, labelled
from megacode.metrics.timeline import Span, Timeline

WIDTH, LEFT, RIGHT, TOP = 960, 66, 12, 6
ROW, GAP, FOOT = 34, 8, 40
DIGIT_WIDTH = 8


def timeline_chart(timeline: Timeline) -> Markup:
    """The picture of `timeline`; hovering over a box tells its stage, pass and milliseconds."""
    height = TOP + timeline.num_stages * (ROW + GAP) + FOOT
    across = Axis(0.0, timeline.seconds or 1.0, LEFT, WIDTH - RIGHT)
    computing = (span for span in timeline.spans if span.computes)
    linking = (span for span in timeline.spans if not span.computes)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="pipeline timeline of one step">',
        *(_row(stage) for stage in range(timeline.num_stages)),
        *(_link(span, across) for span in linking),
        *(_box(span, across, timeline.num_chunks) for span in computing),
        *_time_axis(across, height),
        "</svg>",
    ]
    return Markup("".join(parts))


def _y(stage: int) -> int:
    return TOP + stage * (ROW + GAP)


def _row(stage: int) -> str:
    y, width = _y(stage), WIDTH - LEFT - RIGHT
    return (
        f'<text class="tick" x="{LEFT - 10}" y="{y + ROW / 2 + 4}" text-anchor="end">stage {stage}</text>'
        f'<rect class="wait" x="{LEFT}" y="{y}" width="{width}" height="{ROW}" rx="3"/>'
    )


def _title(span: Span) -> str:
    milliseconds = (span.end - span.start) * 1e3
    kind = span.kind.replace("_", " ").replace("recv", "wait and receive")
    what = f"{kind} of micro-batch {span.micro_batch}" + (f", chunk {span.chunk}" if span.chunk else "")
    return f"<title>stage {span.stage}, {what}: {milliseconds:.3g} ms</title>"


def _box(span: Span, across: Axis, num_chunks: int) -> str:
    """A pass; later chunks are drawn paler."""
    x, y, width = across.place(span.start), _y(span.stage), across.place(span.end) - across.place(span.start)
    number = str(span.micro_batch)
    text = ""
    if width >= DIGIT_WIDTH * len(number) + 3:
        text = (
            f'<text class="number" x="{x + width / 2:.1f}" y="{y + ROW / 2 + 4}" text-anchor="middle">{number}</text>'
        )
    shade = f' fill-opacity="{1 - 0.4 * span.chunk / (num_chunks - 1):.2f}"' if span.chunk else ""
    box = f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.5):.2f}" height="{ROW}" rx="2"{shade}/>'
    return f'<g class="pass {span.kind}">{_title(span)}{box}{text}</g>'


def _link(span: Span, across: Axis) -> str:
    x, y, width = across.place(span.start), _y(span.stage), across.place(span.end) - across.place(span.start)
    style = "send" if span.kind.startswith("send") else "receive"
    bar = f'<rect x="{x:.2f}" y="{y + ROW / 2 - 2}" width="{max(width, 0.5):.2f}" height="4"/>'
    return f'<g class="link {style}">{_title(span)}{bar}</g>'


def _time_axis(across: Axis, height: int) -> list[str]:
    """Ticks in milliseconds, or seconds for long steps."""
    scale, unit = (1e3, "milliseconds") if across.high < 10 else (1.0, "seconds")
    shown = Axis(0.0, across.high * scale, across.start, across.stop)
    y = height - FOOT + 14
    ticks = [
        f'<text class="tick" x="{shown.place(tick):.1f}" y="{y}" text-anchor="middle">{text}</text>'
        for tick, text in labelled(shown.ticks(8))
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*ticks, f'<text class="axis" x="{middle}" y="{height - 4}" text-anchor="middle">{unit}</text>']
