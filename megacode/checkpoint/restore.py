"""Putting a checkpoint's numbers into a run: all of its state to resume, or its weights alone to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from megacode.checkpoint.agree import first_failure
from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.manifest import KINDS
from megacode.checkpoint.portions import stretch_of
from megacode.checkpoint.read import CheckpointReader
from megacode.config.schema import FimConfig, ModelConfig, RunConfig
from megacode.layers.spec import ParamSpec
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.collectives import all_gather_stacked, all_sum_
from megacode.parallel.groups import Group, Groups

# What must be as it was for the losses to go on as if nothing had happened. The layout may change.
_SAME_ON_RESUME = (
    "model",
    "data.sequence",
    "data.seed",
    "data.fim",
    "train.global_batch",
    "train.seed",
    "train.precision",
)


def check_resumable(reader: CheckpointReader, config: RunConfig, tokenizer: str) -> None:
    """Raise CheckpointError that lists every setting in which the checkpoint's run differs from `config`."""
    manifest = reader.manifest
    saved, now = _with_defaults(manifest.state.config), config.model_dump(mode="json")
    differences = [text for name in _SAME_ON_RESUME for text in _changes(name, saved, now)]
    if manifest.state.tokenizer != tokenizer:
        differences.append(f"the tokenizer was {manifest.state.tokenizer[:12]}, is {tokenizer[:12]}")
    if missing := [kind for kind in KINDS if kind not in manifest.kinds]:
        differences.append(f"it holds weights only, no {' and '.join(missing)}")
    if differences:
        raise CheckpointError(
            f"{reader.folder} cannot be resumed with this configuration: {'; '.join(differences)}; "
            "set these back, or start anew with another checkpoint.folder (and checkpoint.init_from for its weights)"
        )


def check_next_batch(reader: CheckpointReader, config: RunConfig, next_batch: str) -> None:
    """Raise CheckpointError if the run would go on with other tokens than the one that wrote the checkpoint.

    `next_batch`: the hash of the global batch that the run would train on next.
    """
    state = reader.manifest.state
    if state.next_batch in ("", next_batch):
        return
    saved, now = dict(state.config), config.model_dump(mode="json")
    changes = [*_changes("data", saved, now), *_changes("train.global_batch", saved, now)]
    why = "; ".join(changes) or "no setting did, so the shards hold other tokens (or others of them are removed)"
    raise CheckpointError(
        f"{reader.folder}: the data changed: batch {state.step + 1} was to be {state.next_batch[:12]}, "
        f"and is {next_batch[:12]}. What changed: {why}. Put it back, or start anew with checkpoint.init_from"
    )


def restore(
    reader: CheckpointReader,
    optimizer: ShardedAdamW,
    groups: Groups,
    kinds: Sequence[str] = KINDS,
    parameters: Sequence[tuple[ParamSpec, nn.Parameter]] = (),
) -> None:
    """Fill this rank's shard of the given kinds of state, and publish the weights; any layout reads any other's.

    Every rank calls it, and reads only what it needs. Raises on all ranks, if anything is wrong on any: Damage if a
    file is not as it was written, CheckpointError if a tensor is missing or of another shape. `parameters`: the
    stage's; of those that two stages share, both must then have the same values.
    """
    device = optimizer.state["master"].device
    together(groups, device, lambda: load_shard(reader, optimizer, groups, kinds))
    optimizer.publish()
    together(groups, device, lambda: _check_shared(reader, parameters, groups.tied))


def together(groups: Groups, device: torch.device, act: Callable[[], None]) -> None:
    """Do `act` on every rank; what a checkpoint lacks for one of them is raised on all."""
    failure, is_damage = "", 0
    try:
        act()
    except CheckpointError as error:
        failure, is_damage = str(error), int(isinstance(error, Damage))
    first = first_failure(groups, device, failure)
    if first:
        damaged = all_sum_(torch.tensor([is_damage], device=device), groups.world).item()
        raise (Damage if damaged else CheckpointError)(first)


def load_shard(reader: CheckpointReader, optimizer: ShardedAdamW, groups: Groups, kinds: Sequence[str]) -> None:
    """Fill this rank's shard of the given kinds of state, and nothing else; no other rank is needed.

    Raises Damage if a file is not as it was written, CheckpointError if a tensor is missing or of another shape.
    """
    for segment, elements in optimizer.owned_segments():
        spec = segment.spec
        shape = reader.stored(spec.name).shape
        if shape != spec.shape:
            raise CheckpointError(f"{reader.folder}: {spec.name} is {shape}, the run has {spec.shape}")
        wanted = stretch_of(spec, groups, elements.start - segment.start, len(elements))
        for kind in kinds:
            target = optimizer.in_shard(optimizer.state[kind], elements)
            values = target if target.device.type == "cpu" else torch.empty(len(elements), dtype=torch.float32)
            reader.read(kind, spec.name, wanted, values.detach())
            if values is not target:
                target.copy_(values)


def _check_shared(reader: CheckpointReader, parameters: Sequence[tuple[ParamSpec, nn.Parameter]], tied: Group) -> None:
    """Raise CheckpointError unless the copy of a shared parameter equals its owner's. Both stages call it."""
    for spec, parameter in parameters:
        if spec.is_shared and tied.size > 1:
            sums = all_gather_stacked(_sum_of_bits(parameter.detach()), tied)
            if not bool((sums == sums[0]).all()):
                raise CheckpointError(f"{reader.folder}: the two copies of {spec.tied_to or spec.name} differ")


def _sum_of_bits(values: Tensor) -> Tensor:
    """Two sums over the numbers as integers, one of them weighted by place: int64 [2]."""
    words = values.contiguous().view(-1).view({2: torch.int16, 4: torch.int32}[values.element_size()]).long()
    places = torch.arange(1, len(words) + 1, device=words.device)
    return torch.stack([words.sum(), (words * places).sum()])


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration in which a key that the version of the time had not yet is what its default says."""
    saved = dict(config)
    saved["model"] = ModelConfig.model_validate(saved.get("model", {})).model_dump(mode="json")
    fim = saved.get("data", {}).get("fim", {})
    saved["data"] = {**saved.get("data", {}), "fim": FimConfig.model_validate(fim).model_dump(mode="json")}
    return saved


def _changes(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{field} was {was!r}, is {value!r}"
        for field, was, value in _differences(name, _at(saved, name), _at(now, name))
    ]


def _at(table: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        table = table.get(key, {})
    return table


def _differences(name: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in sorted({*was, *now}):
            yield from _differences(f"{name}.{key}", was.get(key), now.get(key))
    elif was != now:
        yield name, was, now
