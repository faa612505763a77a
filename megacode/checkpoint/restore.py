"""Putting a checkpoint's numbers into a run: all of its state to resume, or its weights alone to start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.manifest import KINDS
from megacode.checkpoint.read import CheckpointReader
from megacode.config.schema import ModelConfig, RunConfig
from megacode.optim.adamw import ShardedAdamW
from megacode.parallel.groups import Groups

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
    saved, now = dict(reader.manifest.state.config), config.model_dump(mode="json")
    # A key that the checkpoint's version had not yet is what its default says.
    saved["model"] = ModelConfig.model_validate(saved["model"]).model_dump(mode="json")
    differences = [
        f"{field} was {was!r}, is {value!r}"
        for name in _SAME_ON_RESUME
        for field, was, value in _differences(name, _at(saved, name), _at(now, name))
    ]
    if reader.manifest.state.tokenizer != tokenizer:
        differences.append(f"the tokenizer was {reader.manifest.state.tokenizer[:12]}, is {tokenizer[:12]}")
    if differences:
        raise CheckpointError(
            f"{reader.folder} cannot be resumed with this configuration: {'; '.join(differences)}; "
            "set these back, or start anew with another checkpoint.folder (and checkpoint.init_from for its weights)"
        )


def restore(reader: CheckpointReader, optimizer: ShardedAdamW, groups: Groups, kinds: tuple[str, ...] = KINDS) -> None:
    """Fill this rank's shard of the given kinds of state, and publish the weights; any layout reads any other's.

    Raises CheckpointError if a tensor is missing, incomplete or of another shape.
    """
    for segment, part in optimizer.owned_segments():
        place = segment.spec.local_slice(groups.tp.size, groups.tp.index)
        for kind in kinds:
            whole = reader.tensor(kind, segment.spec.name)
            if tuple(whole.shape) != segment.spec.shape:
                raise CheckpointError(
                    f"{reader.folder}: {segment.spec.name} is {tuple(whole.shape)}, the run has {segment.spec.shape}"
                )
            local = whole[place].reshape(-1)[part.start - segment.start : part.stop - segment.start]
            optimizer.in_shard(optimizer.state[kind], part).copy_(local)
    optimizer.publish()


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
