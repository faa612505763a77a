"""A checkpoint's model in one process, for export, completion and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.read import CheckpointReader
from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.kernels.dispatch import choose
from megacode.model.chunk import Chunk
from megacode.model.stage import DTYPES, Stage
from megacode.parallel.groups import single_rank

# What a run's configuration must name and weights alone have no use for.
_STAND_INS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "data": MappingProxyType({"train": "none", "tokenizer": "none"}),
        "optim": MappingProxyType({"lr": 1.0}),
        "train": MappingProxyType({"steps": 1, "global_batch": 1}),
    }
)


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a checkpoint keeps as a table that can be parsed.

    One of imported weights says only what is known of them: `model`, precision and where they come from (`imported`).
    """
    table = {name: section for name, section in config.items() if name != "imported"}
    if table.keys() >= RunConfig.model_fields.keys():
        return table
    for name, values in _STAND_INS.items():
        table[name] = {**values, **table.get(name, {})}
    table["data"].setdefault("sequence", table["model"]["context"])
    return table


def saved_config(reader: CheckpointReader) -> RunConfig:
    """The configuration of the run that wrote the checkpoint. Raises ConfigError if this version refuses it."""
    return parse_config(filled(reader.manifest.state.config), str(reader.folder))


def saved_tokenizer(reader: CheckpointReader, given: Path | None) -> Tokenizer:
    """The tokenizer that the run was trained with.

    From the folder `given`, else from the checkpoint's own (an imported one has it), else from where the run had it.
    Raises CheckpointError if the one found there is another, or if there is none.
    """
    own, fingerprint = reader.folder / "tokenizer", reader.manifest.state.tokenizer
    if not fingerprint and given is None:
        raise CheckpointError(f"{reader.folder}: was imported without a tokenizer; name its folder by --tokenizer")
    kept = reader.manifest.state.config.get("data", {}).get("tokenizer")
    folder = given or (own if own.is_dir() else Path(kept) if kept else None)
    if folder is None:
        raise CheckpointError(f"{reader.folder}: its tokenizer is no longer beside it; name its folder by --tokenizer")
    tokenizer = Tokenizer.load(folder)
    if fingerprint and tokenizer.fingerprint != fingerprint:
        raise CheckpointError(
            f"{reader.folder}: was trained with another tokenizer than {folder}; name its folder by --tokenizer"
        )
    return tokenizer


def load_decoder(reader: CheckpointReader, precision: str, rounded: str | None = None) -> Chunk:
    """The whole decoder on the CPU with the trained weights, computing in `precision` (bf16, fp16 or fp32).

    The weights are those that the run computed with: its masters, rounded to the run's own precision, or to `rounded`.
    """
    config = saved_config(reader)
    stored_in = DTYPES[rounded or config.train.precision]
    table: dict[str, Any] = config.model_dump()
    table["parallel"] = {}
    table["optim"] = {"lr": config.optim.lr}
    table["train"] |= {"precision": precision, "global_batch": 1, "micro_batch": 1, "validate_sequences": 1}
    stage = Stage(parse_config(table, str(reader.folder)), single_rank(), choose("torch", "cpu"), torch.device("cpu"))
    with torch.no_grad():
        for spec, parameter in stage.specs():
            parameter.copy_(reader.tensor("master", spec.name).to(stored_in))
    return stage.chunks[0].eval()
