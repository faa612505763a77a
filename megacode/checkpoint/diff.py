"""How two checkpoints differ: configuration, and every tensor's largest difference; little of either is in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megacode.checkpoint.coverage import Stretch
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.inspect import flat
from megacode.checkpoint.manifest import whole
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.rewrite import ELEMENTS_AT_ONCE


@dataclass(frozen=True)
class TensorDiff:
    """A tensor of both: `equal` bit for bit; `largest` absolute difference, and the largest number in either.

    `note`: why it cannot be compared, or empty.
    """

    kind: str
    name: str
    equal: bool
    largest: float
    scale: float
    note: str = ""


@dataclass(frozen=True)
class Diff:
    """Two checkpoints side by side. `state`: (setting, in the first, in the second) for each that differs."""

    first: str
    second: str
    state: Sequence[tuple[str, Any, Any]]
    tensors: Sequence[TensorDiff]

    @property
    def equal(self) -> bool:
        """Whether all numbers are, bit for bit."""
        return all(one.equal for one in self.tensors)


def diff(first: Path, second: Path, advance: Callable[[int], None] = lambda count: None) -> Diff:
    """Compare two checkpoints, of run folders the newest; `advance(1)` is called for every tensor and kind.

    Kinds that only one of them has are left out; what is compared is checked as it is read. Raises CheckpointError.
    """
    one, other = (CheckpointReader(find_checkpoint(path)) for path in (first, second))
    kinds = [kind for kind in one.manifest.kinds if kind in other.manifest.kinds]
    names = [*one.manifest.tensors, *(name for name in other.manifest.tensors if name not in one.manifest.tensors)]
    tensors = []
    for kind in kinds:
        for name in names:
            tensors.append(_tensor_diff(one, other, kind, name))
            advance(1)
    return Diff(str(one.folder), str(other.folder), _state_differences(one, other), tensors)


def render_diff(found: Diff) -> str:
    """Settings that differ, then tensors that do, then how many are the same."""
    lines = [f"- {found.first}", f"+ {found.second}"]
    lines += [f"{name}: {was!r} -> {now!r}" for name, was, now in found.state]
    for one in found.tensors:
        if one.note:
            lines.append(f"{one.kind}/{one.name}: {one.note}")
        elif not one.equal:
            lines.append(
                f"{one.kind}/{one.name}: differs by {one.largest:.3e} at most, where numbers reach {one.scale:.3e}"
            )
    same = sum(one.equal for one in found.tensors)
    return "\n".join([*lines, f"{same} of {len(found.tensors)} tensors are equal bit for bit"])


def _tensor_diff(one: CheckpointReader, other: CheckpointReader, kind: str, name: str) -> TensorDiff:
    shapes = [reader.manifest.tensors[name].shape for reader in (one, other) if name in reader.manifest.tensors]
    if len(shapes) == 1:
        where = "first" if name in one.manifest.tensors else "second"
        return TensorDiff(kind, name, False, math.nan, math.nan, f"only the {where} has it")
    if shapes[0] != shapes[1]:
        return TensorDiff(
            kind, name, False, math.nan, math.nan, f"is {shapes[0]} in the first, {shapes[1]} in the second"
        )
    equal, largest, scale = True, 0.0, 0.0
    everything = whole(shapes[0])
    for start in range(0, everything.stop, ELEMENTS_AT_ONCE):
        wanted = Stretch(everything.bounds, start, min(everything.stop, start + ELEMENTS_AT_ONCE))
        values = [torch.empty(wanted.stop - wanted.start) for _ in range(2)]
        for reader, out in zip((one, other), values, strict=True):
            reader.read(kind, name, wanted, out)
        equal = equal and torch.equal(*(value.view(torch.int32) for value in values))
        largest = max(largest, float((values[0] - values[1]).abs().max()))
        scale = max(scale, *(float(value.abs().max()) for value in values))
    return TensorDiff(kind, name, equal, largest, scale)


def _state_differences(one: CheckpointReader, other: CheckpointReader) -> list[tuple[str, Any, Any]]:
    was, now = flat(one.manifest.said()), flat(other.manifest.said())
    names = [*was, *(name for name in now if name not in was)]
    differences = [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]
    kinds = one.manifest.kinds, other.manifest.kinds
    return differences + ([("kinds", *kinds)] if kinds[0] != kinds[1] else [])
