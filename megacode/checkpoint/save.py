"""Saving: every rank writes the shard that it alone owns, to a folder aside; rank 0 commits when all have agreed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import aside_folder, commit, flush_folder, start_aside
from megacode.checkpoint.manifest import FILE_NAME, Manifest, Piece, RunState, StoredFile, StoredTensor
from megacode.checkpoint.read import sha256_of
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.collectives import all_sum_
from megacode.parallel.groups import Groups


def save_checkpoint(run: Path, optimizer: ShardedAdamW, groups: Groups, state: RunState, keep: int) -> None:
    """Write the checkpoint of `state.step` into the run folder `run` and keep the `keep` newest.

    Every rank calls it. Raises CheckpointError on all ranks if any rank could not write; then nothing is committed.
    """
    device = optimizer.state["master"].device
    _all_agree("make a folder", groups, device, _on_rank_0(groups, start_aside, run, state.step))
    aside = aside_folder(run, state.step)
    _all_agree("write its shard", groups, device, partial(_write_shard, aside, optimizer, groups))
    _all_agree("commit", groups, device, _on_rank_0(groups, _finish, run, aside, groups, state, keep))


def _on_rank_0(groups: Groups, act: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return partial(act, *arguments) if groups.rank == 0 else lambda: None


def _all_agree(what: str, groups: Groups, device: torch.device, act: Callable[[], object]) -> None:
    """Do `act` on every rank; if it fails on any, raise on all of them."""
    failure: OSError | None = None
    try:
        act()
    except OSError as error:
        failure = error
    failed = all_sum_(torch.tensor([0 if failure is None else 1], device=device), groups.world)
    if failure is not None:
        raise CheckpointError(f"rank {groups.rank} could not {what} for a checkpoint: {failure}") from failure
    if failed.item():
        raise CheckpointError(f"{failed.item()} other rank(s) could not {what} for a checkpoint; nothing was saved")


def _write_shard(aside: Path, optimizer: ShardedAdamW, groups: Groups) -> None:
    file = f"rank_{groups.rank:05d}.safetensors"
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    for held in optimizer.held():
        spec, count = held.spec, len(held.elements)
        for kind, values in optimizer.state.items():
            tensors[f"{kind}/{spec.name}"] = optimizer.in_shard(values, held.elements).cpu().clone()
        place = spec.local_slice(groups.tp.size, groups.tp.index)
        piece = Piece(file, tuple((side.start, side.stop) for side in place), held.start, held.start + count)
        entries[spec.name] = {"shape": spec.shape, "piece": asdict(piece)}
    _write_flushed(aside / file, safetensors.torch.save(tensors))
    stored = StoredFile((aside / file).stat().st_size, sha256_of(aside / file))
    part_of_manifest = {"file": file, "stored": asdict(stored), "tensors": entries}
    _write_flushed(_part_path(aside, groups.rank), json.dumps(part_of_manifest).encode())


def _finish(run: Path, aside: Path, groups: Groups, state: RunState, keep: int) -> None:
    """Merge the ranks' parts into the manifest and commit the folder."""
    files: dict[str, StoredFile] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[Piece]] = {}
    for rank in range(groups.world.size):
        path = _part_path(aside, rank)
        part = json.loads(path.read_text(encoding="utf-8"))
        files[part["file"]] = StoredFile(**part["stored"])
        for name, entry in part["tensors"].items():
            shapes[name] = tuple(entry["shape"])
            pieces.setdefault(name, []).append(Piece(**entry["piece"]))
        path.unlink()
    tensors = {name: StoredTensor(shapes[name], tuple(pieces[name])) for name in shapes}
    _write_flushed(aside / FILE_NAME, Manifest(state, tensors, files).to_json().encode())
    flush_folder(aside)
    commit(run, state.step, keep)


def _part_path(aside: Path, rank: int) -> Path:
    return aside / f"part_{rank:05d}.json"


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
