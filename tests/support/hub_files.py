"""A Hugging Face folder written without transformers, as it should be, for tests to spoil."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from megacode.checkpoint.huggingface.names import logical_shapes, twin_of
from megacode.checkpoint.huggingface.replacing import replacing_folder
from megacode.config.schema import ModelConfig

BIGCODE = {"layers": 2, "hidden": 32, "heads": 4, "vocab": 64, "context": 24}
STARCODER2 = {**BIGCODE, "kv_heads": 2, "positions": "rotary", "rope_theta": 2e4}


def write_hub(folder: Path, dtype: torch.dtype = torch.float32, **model: Any) -> dict[str, Tensor]:
    """Write config.json and model.safetensors of a model with random weights; returns its tensors."""
    config = ModelConfig(**model)
    family, generator = twin_of(config), torch.Generator().manual_seed(3)
    own = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in logical_shapes(config).items()}
    tensors = {name: tensor.contiguous().clone() for name, tensor in family.hub_tensors(config, own.__getitem__)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.hub_config(config, 0, str(dtype).removeprefix("torch."))))
    write_weights(folder, tensors)
    return tensors


def write_weights(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> None:
    """Write one file of weights."""
    safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json; ... removes one."""
    path = folder / "config.json"
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not ...}))


def write_for_ever(out: Path, ready: Any) -> None:
    """Write half of the folder `out`, set `ready`, and go on until the parent has ended."""
    with replacing_folder(out, lambda there: True) as aside:
        (aside / "half").write_text("half a folder")
        ready.set()
        while os.getppid() > 1:
            multiprocessing.Event().wait(1)
