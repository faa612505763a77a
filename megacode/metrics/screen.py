"""One line of text per row, columns under columns, for whoever watches the run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PHASES = ("data", "compute", "reduce", "optimizer")
VALIDATIONS = MappingProxyType({"left_to_right": "left to right", "psm": "PSM", "spm": "SPM"})


def render_step(row: Mapping[str, Any], steps: int | None = None) -> str:
    """The line of a `step` row; `steps` is how many the whole run has.

    Shows loss (nats per token), gradient norm, learning rate, tokens/s of all ranks, TFLOP/s of one rank, MFU where the
    device's peak is known, seconds, and the phases that took over a hundredth of them. A value that is null, which is
    how the log keeps a number that is not finite, shows as nan.
    """
    columns = [
        _step(row, steps),
        f"loss {_number(row, 'loss', '7.4f')}",
        f"norm {_number(row, 'grad_norm', '7.3f')}",
        f"lr {_number(row, 'lr', '.2e')}",
        f"{_number(row, 'tokens_per_second', '>9,.0f')} tokens/s",
        f"{_number(row, 'tflops_per_rank', '7.3f')} TFLOP/s",
    ]
    if row.get("mfu") is not None:
        columns.append(f"MFU {row['mfu'] * 100:4.1f} %")
    return "  ".join([*columns, _phases(row.get("seconds") or {})]).rstrip()


def render_validation(row: Mapping[str, Any], steps: int | None = None) -> str:
    """The line of a `validation` row: the loss left to right and filling in the middle, nats per token."""
    losses = "  ".join(f"{name} {_number(row, key, '.4f')}" for key, name in VALIDATIONS.items())
    return f"{_step(row, steps)}  validation  {losses}"


def _step(row: Mapping[str, Any], steps: int | None) -> str:
    step = row.get("step", 0)
    return f"step {step:>7,}" if steps is None else f"step {step:>{len(f'{steps:,}')},}/{steps:,}"


def _number(row: Mapping[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return format(float("nan") if value is None else value, form)


def _phases(seconds: Mapping[str, float]) -> str:
    total = seconds.get("total") or 0.0
    if total <= 0:
        return ""
    shares = ((phase, (seconds.get(phase) or 0.0) / total) for phase in PHASES)
    detail = ", ".join(f"{phase} {share:.0%}" for phase, share in shares if share >= 0.01)
    return f"{total:7.3f} s" + (f" ({detail})" if detail else "")
