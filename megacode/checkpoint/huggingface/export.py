"""Writes a checkpoint as a Hugging Face folder, tensor by tensor, and has it compared with the engine."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch
from torch import Tensor

from megacode.checkpoint.decoder import load_decoder, saved_config, saved_tokenizer
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.huggingface import bigcode, starcoder2
from megacode.checkpoint.read import CheckpointReader, verify
from megacode.config.schema import ModelConfig, RunConfig
from megacode.layers.forward_pass import ForwardPass
from megacode.model.stage import DTYPES

SHARD_BYTES = 4 << 30
TOLERANCE = 1e-4
_PROBE_TOKENS = 64


@dataclass(frozen=True)
class ExportReport:
    """What an export did. `largest_difference` of any logit from the engine's in fp32; None: the check was skipped."""

    folder: Path
    parameters: int
    largest_difference: float | None


def export(checkpoint: Path, out: Path, tokenizer: Path | None = None) -> ExportReport:
    """Write the Hugging Face folder `out`, complete or not at all; `tokenizer` defaults to the one of the run.

    With learned positions it is a GPTBigCodeForCausalLM, with rotary ones a Starcoder2ForCausalLM.
    `checkpoint` is a checkpoint folder, or a run folder for its newest.
    The weights are in the precision that the run computed with. Where `transformers` is installed, a process of its
    own loads the folder and compares logits with the engine's. Raises CheckpointError if the checkpoint is damaged,
    the tokenizer is another, or a logit differs by more than 1e-4.
    """
    checkpoint = find_checkpoint(checkpoint)
    reader = CheckpointReader(checkpoint)
    verify(checkpoint, reader.manifest)
    config = saved_config(reader)
    words = saved_tokenizer(reader, tokenizer)
    aside = out.with_name(f".{out.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    parameters = _write_weights(aside, reader, config)
    dtype = str(DTYPES[config.train.precision]).removeprefix("torch.")
    _write_json(aside / "config.json", _hub(config.model).hub_config(config.model, words.end_of_text, dtype))
    _write_json(
        aside / "generation_config.json", {"bos_token_id": words.end_of_text, "eos_token_id": words.end_of_text}
    )
    words.save(aside)
    difference = _compare(aside, reader, config)
    if out.exists():
        shutil.rmtree(out)
    aside.rename(out)
    return ExportReport(out, parameters, difference)


def _hub(model: ModelConfig) -> ModuleType:
    """The names and configuration of the Hugging Face architecture that computes what `model` does."""
    return starcoder2 if model.positions == "rotary" else bigcode


def _write_weights(folder: Path, reader: CheckpointReader, config: RunConfig) -> int:
    """Write safetensors shards of at most SHARD_BYTES and their index; returns the number of parameters."""
    dtype = DTYPES[config.train.precision]
    model = config.model
    tensors = _hub(model).hub_tensors(model, lambda name: reader.tensor("master", name).to(dtype))
    shards = list(_shards(tensors, folder))
    names = {name: file for file, held in shards for name in held}
    total = sum(count for _, held in shards for count in held.values())
    if len(shards) == 1:
        (folder / shards[0][0]).rename(folder / "model.safetensors")
        return total
    final = {file: f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i, (file, _) in enumerate(shards)}
    for file, name in final.items():
        (folder / file).rename(folder / name)
    index = {
        "metadata": {"total_size": total * dtype.itemsize},
        "weight_map": {name: final[file] for name, file in names.items()},
    }
    _write_json(folder / "model.safetensors.index.json", index)
    return total


def _shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Write tensors into files as they come; yields each file's name and the elements of each tensor in it."""
    held: dict[str, Tensor] = {}
    number = 0
    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > SHARD_BYTES:
            yield _write_shard(folder, number, held)
            held, number = {}, number + 1
        held[name] = tensor.contiguous()
    yield _write_shard(folder, number, held)


def _write_shard(folder: Path, number: int, held: dict[str, Tensor]) -> tuple[str, dict[str, int]]:
    file = f"shard-{number}.safetensors"
    safetensors.torch.save_file(held, folder / file, metadata={"format": "pt"})
    return file, {name: tensor.numel() for name, tensor in held.items()}


def _compare(folder: Path, reader: CheckpointReader, config: RunConfig) -> float | None:
    """The largest difference of a logit between the engine and transformers, or None without transformers."""
    if importlib.util.find_spec("transformers") is None:
        return None
    length = min(_PROBE_TOKENS, config.model.context)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.model.vocab, (1, length), generator=generator)
    decoder = load_decoder(reader, "fp32")
    with torch.no_grad():
        x = decoder.embed(tokens, torch.arange(length).unsqueeze(0), None)
        logits = decoder.logits(decoder(x, ForwardPass()))
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.safetensors"
        safetensors.torch.save_file({"tokens": tokens, "logits": logits.contiguous()}, probe)
        command = [sys.executable, "-m", "megacode.checkpoint.huggingface.compare", str(folder), str(probe)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise CheckpointError(f"{folder}: transformers could not load the export:\n{answer.stderr[-2000:]}")
    difference = float(json.loads(answer.stdout.splitlines()[-1])["largest_difference"])
    if not difference <= TOLERANCE:
        raise CheckpointError(f"{folder}: a logit differs by {difference:.2e} between engine and transformers")
    return difference


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
