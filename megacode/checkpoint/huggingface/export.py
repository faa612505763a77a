"""Writes a checkpoint as a Hugging Face folder, tensor by tensor, and has it compared with the engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

from torch import Tensor

from megacode.checkpoint.decoder import saved_config, saved_tokenizer
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.huggingface.import_model import in_files
from megacode.checkpoint.huggingface.names import Shapes, hub_shapes, twin_of
from megacode.checkpoint.huggingface.probe import compare_logits
from megacode.checkpoint.huggingface.replacing import replacing_folder
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.stream import Entry, write_tensors
from megacode.config.schema import ModelConfig
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.model.stage import DTYPES

SHARD_BYTES = 4 << 30
METADATA = (("format", "pt"),)


@dataclass(frozen=True)
class ExportReport:
    """What an export did. `largest_difference` of any logit from the engine's in fp32; None: the check was skipped."""

    folder: Path
    parameters: int
    largest_difference: float | None
    architecture: str
    dtype: str
    comparison: str
    tokenizer: str


def export(
    checkpoint: Path,
    out: Path,
    tokenizer: Path | None = None,
    dtype: str | None = None,
    compare: bool | None = None,
) -> ExportReport:
    """Write the Hugging Face folder `out`, complete or not at all; `tokenizer` defaults to the one of the run.

    With learned positions it is a GPTBigCodeForCausalLM, with rotary ones a Starcoder2ForCausalLM. `checkpoint` is a
    checkpoint folder, or a run folder for its newest. The weights are in the precision that the run computed with, or
    rounded to `dtype` (bf16, fp16, fp32) from the masters. Memory is that of the largest few tensors.
    Where `transformers` is installed and the model fits into memory, a process of its own loads the folder and compares
    logits with the engine's (`compare`: True insists, False leaves it out).
    Raises CheckpointError if the model has no twin, the checkpoint is damaged, the tokenizer is another, or a logit
    differs by more than 1e-4.
    """
    checkpoint = find_checkpoint(checkpoint)
    reader = CheckpointReader(checkpoint)
    config = saved_config(reader)
    family = twin_of(config.model)
    dtype = dtype or config.train.precision
    if dtype not in DTYPES:
        raise CheckpointError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    words = _tokenizer(reader, tokenizer)
    end_of_text = words.end_of_text if words else _imported_end(reader)
    for file in reader.manifest.files:
        reader.check_file(file)
    with replacing_folder(out, is_export) as aside:
        parameters = _write_weights(aside, reader, family, config.model, dtype)
        named = str(DTYPES[dtype]).removeprefix("torch.")
        _write_json(aside / "config.json", family.hub_config(config.model, end_of_text, named))
        _write_json(aside / "generation_config.json", {"bos_token_id": end_of_text, "eos_token_id": end_of_text})
        if words:
            words.save(aside)
        compared = compare_logits(reader, aside, dtype, wanted=compare)
    return ExportReport(
        *(out, parameters, compared.largest_difference, family.ARCHITECTURES[0], named, str(compared)),
        words.fingerprint if words else "",
    )


def is_export(folder: Path) -> bool:
    """Whether a folder is a Hugging Face model, which an export may write again."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def _tokenizer(reader: CheckpointReader, given: Path | None) -> Tokenizer | None:
    """The model's tokenizer; None where it was imported without one and none is given."""
    if given is None and not reader.manifest.state.tokenizer:
        return None
    return saved_tokenizer(reader, given)


def _imported_end(reader: CheckpointReader) -> int:
    """What the imported config.json called the end of a text; 0, BigCode's, where it said nothing."""
    return int(reader.manifest.state.config.get("imported", {}).get("end_of_text", 0))


def _write_weights(folder: Path, reader: CheckpointReader, family: ModuleType, model: ModelConfig, dtype: str) -> int:
    """Write safetensors shards of at most SHARD_BYTES and their index; returns the number of parameters."""
    shapes, kind = hub_shapes(family, model), DTYPES[dtype]
    files = list(in_files(shapes, kind.itemsize, SHARD_BYTES))
    values = _values(reader, family, model, dtype)
    places: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        entries = [Entry(name, kind, shapes[name]) for name in names]
        write_tensors(folder / file, entries, islice(values, len(names)), dict(METADATA))
        places |= dict.fromkeys(names, file)
    total = _elements(shapes)
    if len(files) > 1:
        index = {"metadata": {"total_size": total * kind.itemsize}, "weight_map": places}
        _write_json(folder / "model.safetensors.index.json", index)
    return total


def _values(reader: CheckpointReader, family: ModuleType, model: ModelConfig, dtype: str) -> Iterator[Tensor]:
    tensors: Iterator[tuple[str, Tensor]] = family.hub_tensors(
        model, lambda name: reader.tensor("master", name).to(DTYPES[dtype])
    )
    return (tensor for _, tensor in tensors)


def _elements(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
