"""A checkpoint's model in one process, for export, completion and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.read import CheckpointReader
from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.data.tokenizer import Tokenizer
from megacode.kernels.dispatch import choose
from megacode.model.chunk import Chunk
from megacode.model.stage import DTYPES, Stage
from megacode.parallel.groups import single_rank


def saved_config(reader: CheckpointReader) -> RunConfig:
    """The configuration of the run that wrote the checkpoint. Raises ConfigError if this version refuses it."""
    return parse_config(dict(reader.manifest.state.config), str(reader.folder))


def saved_tokenizer(reader: CheckpointReader, given: Path | None) -> Tokenizer:
    """The tokenizer that the run was trained with, from the folder `given`, else from where the run had it.

    Raises CheckpointError if the one found there is another.
    """
    folder = given or Path(saved_config(reader).data.tokenizer)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint != reader.manifest.state.tokenizer:
        raise CheckpointError(
            f"{reader.folder}: was trained with another tokenizer than {folder}; name its folder by --tokenizer"
        )
    return tokenizer


def load_decoder(reader: CheckpointReader, precision: str) -> Chunk:
    """The whole decoder on the CPU with the trained weights, computing in `precision` (bf16, fp16 or fp32).

    The weights are those that the run computed with: its masters, rounded to the run's own precision.
    """
    config = saved_config(reader)
    trained_in = DTYPES[config.train.precision]
    table: dict[str, Any] = config.model_dump()
    table["parallel"] = {}
    table["optim"] = {"lr": config.optim.lr}
    table["train"] |= {"precision": precision, "global_batch": 1, "micro_batch": 1, "validate_sequences": 1}
    stage = Stage(parse_config(table, str(reader.folder)), single_rank(), choose("torch", "cpu"), torch.device("cpu"))
    with torch.no_grad():
        for spec, parameter in stage.specs():
            parameter.copy_(reader.tensor("master", spec.name).to(trained_in))
    return stage.chunks[0].eval()
