"""What is in a run folder, and what is in a checkpoint, without reading its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacode.checkpoint.coverage import elements_of
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import committed, find_checkpoint
from megacode.checkpoint.manifest import DTYPES, FILE_NAME, TABLE_ENDING, Manifest, whole


@dataclass(frozen=True)
class Listed:
    """A checkpoint of a run. `problem`: why it cannot be used, as far as manifest and files' lengths tell; or empty."""

    folder: str
    step: int
    tokens: int
    bytes: int
    kinds: Sequence[str]
    layout: Mapping[str, int | str]
    restart: int
    problem: str


@dataclass(frozen=True)
class ShownTensor:
    """A logical tensor: its shape and type, in how many pieces it lies, bytes of all kinds together."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: int
    bytes: int


@dataclass(frozen=True)
class Shown:
    """All that a manifest says but the places of the numbers."""

    folder: str
    state: Mapping[str, Any]
    kinds: Sequence[str]
    parameters: int
    tensors: Sequence[ShownTensor]
    files: Mapping[str, int]


def list_checkpoints(path: Path) -> list[Listed]:
    """The checkpoints of a run folder, oldest first, or the one that `path` is.

    Raises CheckpointError if it is neither.
    """
    folders = [path] if (path / FILE_NAME).is_file() else committed(path) or [find_checkpoint(path)]
    return [_listed(folder) for folder in folders]


def show(path: Path) -> Shown:
    """What a checkpoint holds; of a run folder its newest. Raises CheckpointError if it cannot be understood."""
    folder = find_checkpoint(path)
    manifest = Manifest.read(folder)
    tensors = [
        ShownTensor(
            name,
            one.shape,
            one.dtype,
            len(one.pieces),
            elements_of(whole(one.shape).bounds) * DTYPES[one.dtype].itemsize * len(manifest.kinds),
        )
        for name, one in manifest.tensors.items()
    ]
    return Shown(
        str(folder),
        manifest.said(),
        manifest.kinds,
        sum(elements_of(whole(one.shape).bounds) for one in tensors),
        tensors,
        {name: file.bytes for name, file in manifest.files.items()},
    )


def problem_at_a_glance(folder: Path, manifest: Manifest) -> str:
    """A file that is missing or of another length; empty if there is none."""
    for name, file in manifest.files.items():
        for path, length in ((folder / name, file.bytes), (folder / (name + TABLE_ENDING), None)):
            if not path.is_file():
                return f"{path}: is missing"
            if length is not None and path.stat().st_size != length:
                return f"{path}: has {path.stat().st_size} bytes, not {length}"
    return ""


def render_list(found: Sequence[Listed]) -> str:
    """A line for each checkpoint, and one more for what is wrong with it."""
    lines = []
    for one in found:
        if one.problem and not one.bytes:
            lines.append(f"{one.folder}  unusable")
        else:
            lines.append(
                f"{one.folder}  step {one.step:,}  {one.tokens:,} tokens  {one.bytes / 1e6:,.1f} MB  "
                f"{render_layout(one.layout)}  {'weights only' if len(one.kinds) == 1 else 'complete'}"
                + "  UNUSABLE"
                * bool(one.problem)
            )
        if one.problem:
            lines.append(f"    {one.problem}")
    return "\n".join(lines)


def render_layout(layout: Mapping[str, int | str]) -> str:
    """A layout in a few words."""
    if not layout:
        return "no layout"
    text = " x ".join(f"{axis.upper()} {layout.get(axis, '?')}" for axis in ("tp", "pp", "dp"))
    return f"{text}, {layout.get('schedule', '?')}, ZeRO {layout.get('zero_stage', '?')}"


def render_show(found: Shown) -> str:
    """The state, then the tensors, then the files."""
    state = found.state
    lines = [
        f"{found.folder}: step {state['step']:,}, {state['tokens']:,} tokens, {found.parameters:,} parameters",
        f"kinds      {', '.join(found.kinds)}",
        f"written in {render_layout(state['layout'])}",
        f"run        {state['run'] or 'unknown'}, start {state['restart']}",
        f"tokenizer  {state['tokenizer'][:16] or 'none'}",
        f"seeds      {_pairs(state['seeds'])}",
        f"samples    {_pairs(state['cursors'])}; next batch {state['next_batch'][:16] or 'unknown'}",
        f"loss scale {_pairs(state['scaling'])}",
        "config",
        *(f"  {name:<40} {value}" for name, value in flat(state["config"]).items()),
        "tensors",
        *(
            f"  {one.name:<40} {' x '.join(map(str, one.shape)):<16} {one.dtype:<5}{one.bytes:>14,} bytes "
            f"in {one.pieces} piece" + "s" * (one.pieces != 1)
            for one in found.tensors
        ),
        "files",
        *(f"  {name:<40} {length:>14,} bytes" for name, length in found.files.items()),
    ]
    return "\n".join(lines)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _listed(folder: Path) -> Listed:
    try:
        manifest = Manifest.read(folder)
    except CheckpointError as error:
        return Listed(str(folder), 0, 0, 0, (), {}, 0, str(error))
    state, problem = manifest.state, problem_at_a_glance(folder, manifest)
    return Listed(
        str(folder), state.step, state.tokens, manifest.bytes, manifest.kinds, state.layout, state.restart, problem
    )


def _pairs(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items()) or "none"
