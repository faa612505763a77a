"""Compares a checkpoint's logits with those of a Hugging Face folder that transformers loads in another process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megacode.checkpoint.decoder import load_decoder, saved_config
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.stream import Entry, write_tensors
from megacode.config.schema import ModelConfig
from megacode.layers.forward_pass import ForwardPass
from megacode.plan.parameters import count_parameters

TOLERANCE = 1e-4
_TOKENS = 64
_LONGEST_WINDOW = 256  # one that reaches further is not felt by so few tokens; a longer probe would take minutes
_ROOM = 1.5  # a model's weights in fp32, and what else a process needs


@dataclass(frozen=True)
class Comparison:
    """The largest difference of a logit in fp32, or None and why there was none."""

    largest_difference: float | None
    skipped: str = ""

    def __str__(self) -> str:
        if self.largest_difference is None:
            return f"logits NOT compared: {self.skipped}"
        return f"logits agree with transformers within {self.largest_difference:.1e} (fp32)"


def compare_logits(
    reader: CheckpointReader,
    folder: Path,
    rounded: str,
    overrides: Mapping[str, Any] | None = None,
    wanted: bool | None = None,
) -> Comparison:
    """Run a few tokens through the engine and through transformers, one after the other.

    `rounded`: the precision of the weights in `folder`. `overrides` of its config.json. `wanted`: None leaves it out,
    and says so, where transformers or memory for the whole model is missing; True insists.
    Raises CheckpointError if transformers cannot load the folder or a logit differs by more than 1e-4.
    """
    model = saved_config(reader).model
    if wanted is False:
        return Comparison(None, "not asked for")
    if why := _hindrance(model):
        if wanted is None:
            return Comparison(None, why)
        if "not installed" in why:
            raise CheckpointError(f"logits cannot be compared: {why}")
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.safetensors"
        tensors = _probe(reader, model, rounded)
        write_tensors(probe, [Entry(key, it.dtype, tuple(it.shape)) for key, it in tensors.items()], tensors.values())
        command = [sys.executable, "-m", "megacode.checkpoint.huggingface.compare", str(folder), str(probe)]
        answer = subprocess.run([*command, json.dumps(overrides or {})], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise CheckpointError(f"{folder}: transformers could not load it:\n{answer.stderr[-2000:]}")
    difference = float(json.loads(answer.stdout.splitlines()[-1])["largest_difference"])
    if not difference <= TOLERANCE:
        raise CheckpointError(f"{folder}: a logit differs by {difference:.2e} between engine and transformers")
    return Comparison(difference)


def _probe(reader: CheckpointReader, model: ModelConfig, rounded: str) -> dict[str, Tensor]:
    """Random tokens [1, s] and the engine's logits for them [1, s, v]; more tokens than a short window holds."""
    window = model.window if model.window is not None and model.window <= _LONGEST_WINDOW else 0
    length = min(max(_TOKENS, window + _TOKENS // 4), model.context)
    tokens = torch.randint(model.vocab, (1, length), generator=torch.Generator().manual_seed(0))
    decoder = load_decoder(reader, "fp32", rounded)
    with torch.no_grad():
        x = decoder.embed(tokens, torch.arange(length).unsqueeze(0), None)
        logits = decoder.logits(decoder(x, ForwardPass()))
    return {"tokens": tokens, "logits": logits}


def _hindrance(model: ModelConfig) -> str:
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed (pip install megacode[hf])"
    needed, free = int(_ROOM * 4 * count_parameters(model).total), _available_bytes()
    if needed > free:
        return f"the whole model in fp32 needs {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"
    return ""


def _available_bytes() -> int:
    """Memory that can be had without swapping; all of it where Linux does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
