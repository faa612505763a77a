"""The numbers of docs/schedules.md, counted and simulated on the schedules themselves."""

from __future__ import annotations

from megacode.layout.proofs import peak_live_micro_batches, peak_waiting_weight_passes
from megacode.layout.schedules import Kind, make_placement, make_schedule
from megacode.layout.simulate import EqualStages, bubble_fraction, simulate

STAGES, COUNTS = 8, (8, 12, 16, 64)
_CASES = (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 4), ("zb-h1", 1), ("zb-v", 2))


def render_schedule_table() -> str:
    """A Markdown table for 8 equal stages with F = B = W and free messages, in the units that its heads name."""
    heads = ["schedule", *(f"bubble, m = {count}" for count in COUNTS), "held", "of these wait for W", "messages"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    lines += ["| " + " | ".join(_row(name, chunks)) + " |" for name, chunks in _CASES]
    return "\n".join(lines)


def _row(name: str, chunks: int) -> list[str]:
    placement, passes = make_placement(name, STAGES, chunks), EqualStages(num_chunks=chunks)
    schedules = [make_schedule(name, placement, count) for count in COUNTS]
    bubbles = [bubble_fraction(simulate(schedule, passes), STAGES) for schedule in schedules]
    longest = schedules[-1]
    held, waiting = (
        max(peak(longest, stage) for stage in range(STAGES)) / chunks
        for peak in (peak_live_micro_batches, peak_waiting_weight_passes)
    )
    sends = (Kind.SEND_ACTIVATION, Kind.SEND_GRADIENT)
    messages = sum(action.kind in sends for actions in longest.stages for action in actions) / COUNTS[-1]
    label = f"{name}, {chunks} chunks" if chunks > 1 else name
    return [label, *(f"{bubble * 100:.1f} %" for bubble in bubbles), f"{held:g}", f"{waiting:g}", f"{messages:g}"]


if __name__ == "__main__":
    from megacode.console import result

    result(render_schedule_table())
