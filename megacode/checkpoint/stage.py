"""A checkpoint's model in one process, for export, completion and evaluation."""

from __future__ import annotations

from typing import Any

import torch

from megacode.checkpoint.read import CheckpointReader
from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import choose
from megacode.model.stage import DTYPES, Stage
from megacode.parallel.groups import single_rank


def saved_config(reader: CheckpointReader) -> RunConfig:
    """The configuration of the run that wrote the checkpoint. Raises ConfigError if this version refuses it."""
    return parse_config(dict(reader.manifest.state.config), str(reader.folder))


def load_stage(reader: CheckpointReader, precision: str) -> Stage:
    """The whole decoder on the CPU with the trained weights, computing in `precision` (bf16 or fp32).

    The weights are those that the run computed with: its masters, rounded to the run's own precision.
    """
    config = saved_config(reader)
    trained_in = DTYPES[config.train.precision]
    table: dict[str, Any] = config.model_dump()
    table["parallel"] = {}
    table["train"] |= {"precision": precision, "global_batch": 1, "micro_batch": 1, "validate_sequences": 1}
    stage = Stage(parse_config(table, str(reader.folder)), single_rank(), choose("torch", "cpu"), torch.device("cpu"))
    with torch.no_grad():
        for spec, parameter in stage.specs():
            parameter.copy_(reader.tensor("master", spec.name).to(trained_in))
    return stage.eval()
