"""Turns a Hugging Face folder into a checkpoint of weights, tensor by tensor: memory is that of the largest two.

The numbers stay in the type that they have; whoever reads the checkpoint gets them in fp32. So export gives them back
bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from megacode.checkpoint.blocks import block_elements
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface.hub_folder import DTYPES, HubFolder, named
from megacode.checkpoint.huggingface.model_section import ModelSection, read_model_section
from megacode.checkpoint.huggingface.names import hub_shapes, logical_shapes
from megacode.checkpoint.huggingface.probe import Comparison, compare_logits
from megacode.checkpoint.huggingface.replacing import replacing_folder
from megacode.checkpoint.manifest import FILE_NAME, RunState, whole
from megacode.checkpoint.portions import Portion
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.save import write_file, write_manifest
from megacode.config.problem import Problem, render_problems
from megacode.config.schema import ModelConfig
from megacode.data.tokenizers.tokenizer import Tokenizer

FILE_BYTES = 4 << 30
PRECISIONS = MappingProxyType({"BF16": "bf16", "F16": "fp16", "F32": "fp32"})
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# Which dim tensor parallelism cuts: rows of these are read in parts, so their checksums cover short runs.
_SPLIT_DIM = MappingProxyType({"attention.key_value": 1, "attention.out": 1, "mlp.down": 1})


@dataclass(frozen=True)
class ImportOptions:
    """`precision` in which runs and exports of it compute (bf16, fp16, fp32); None: that of the files.

    `activation` overrides config.json's; `tokenizer`: take it over; `compare` logits with transformers: None, if it can
    be done here.
    """

    precision: str | None = None
    activation: str | None = None
    tokenizer: bool = True
    compare: bool | None = None


@dataclass(frozen=True)
class ImportReport:
    """What an import made. `tokenizer` is its fingerprint, or empty; `notes` are what should be known about it."""

    folder: Path
    architecture: str
    parameters: int
    precision: str
    tokenizer: str
    model: ModelConfig
    comparison: Comparison
    notes: tuple[str, ...]


def import_model(folder: Path, out: Path, options: ImportOptions | None = None) -> ImportReport:
    """Write the checkpoint `out` from the Hugging Face folder `folder`, complete or not at all.

    GPTBigCodeForCausalLM and Starcoder2ForCausalLM, in safetensors. `out` can be another run's `checkpoint.init_from`,
    and be exported; with its tokenizer in `out`/tokenizer. Raises CheckpointError that names everything that is
    missing, left over, of another shape, or computed otherwise than by megacode; DataError for an unfit tokenizer.
    """
    options = options or ImportOptions()
    hub = HubFolder.open(folder)
    section = read_model_section(hub.config, str(folder / "config.json"), options.activation)
    section = _check_tensors(hub, section)
    dtype, section = _common_dtype(hub, section)
    precision = options.precision or PRECISIONS[dtype]
    if precision not in PRECISIONS.values():
        raise CheckpointError(f"--dtype {precision}: must be one of {', '.join(PRECISIONS.values())}")
    tokenizer, section = _tokenizer(hub, section, options)
    state = RunState(0, 0, _said(hub, section, precision), tokenizer.fingerprint if tokenizer else "")
    with replacing_folder(out, lambda there: (there / FILE_NAME).is_file() and is_imported(there)) as aside:
        _write(aside, hub, section, dtype, state)
        if tokenizer:
            tokenizer.save(aside / "tokenizer")
        overrides = {section.family.ACTIVATION: options.activation} if options.activation else {}
        compared = compare_logits(CheckpointReader(aside), folder, PRECISIONS[dtype], overrides, options.compare)
    parameters = sum(map(math.prod, logical_shapes(section.model).values()))
    return ImportReport(
        *(out, section.family.ARCHITECTURES[0], parameters, precision, state.tokenizer),
        *(section.model, compared, section.notes),
    )


def is_imported(checkpoint: Path) -> bool:
    """Whether a checkpoint is what an import wrote, which an import may write again."""
    try:
        return "imported" in CheckpointReader(checkpoint).manifest.state.config
    except CheckpointError:
        return False


def _check_tensors(hub: HubFolder, section: ModelSection) -> ModelSection:
    """Hold names and shapes against what config.json promises; settles whether the head is the embedding."""
    family, model = section.family, section.model
    notes = list(section.notes)
    has_both = family.HEAD in hub.tensors and family.EMBEDDING in hub.tensors
    if model.tied and has_both and not hub.same(family.EMBEDDING, family.HEAD):
        model = model.model_copy(update={"tied": False})
        notes.append(f"config.json says the head is tied, but {family.HEAD} is another matrix: imported untied")
    if model.layers > len(hub.tensors):
        raise CheckpointError(
            f"{hub.path}: config.json promises {model.layers} layers, and there are {len(hub.tensors)} tensors in all; "
            "is it of another model, or the download incomplete?"
        )
    expected = hub_shapes(family, model)
    there = {name: tensor for name, tensor in hub.tensors.items() if not family.IGNORED.fullmatch(name)}
    if model.tied:
        there.pop(family.HEAD, None)
    missing = [name for name in expected if name not in there]
    surplus = [name for name in there if name not in expected]
    problems = []
    if missing:
        hint = "tie_word_embeddings is false, so the head must be there" if family.HEAD in missing else ""
        problems.append(Problem("missing", "", named(missing), hint))
    if surplus:
        problems.append(Problem("left over", "", named(surplus)))
    problems += [
        Problem(name, str(there[name].shape), f"must be {shape} by config.json")
        for name, shape in expected.items()
        if name in there and there[name].shape != shape
    ]
    problems += [
        Problem(name, tensor.dtype, f"must be one of {', '.join(DTYPES)}")
        for name, tensor in there.items()
        if tensor.dtype not in DTYPES
    ]
    if problems:
        raise CheckpointError(render_problems(f"{hub.path}: its tensors do not fit its config.json", problems))
    return replace(section, model=model, notes=tuple(notes))


def _common_dtype(hub: HubFolder, section: ModelSection) -> tuple[str, ModelSection]:
    """The type that holds every tensor exactly: theirs if it is one, else fp32."""
    found = {hub.tensors[name].dtype for name in hub_shapes(section.family, section.model)}
    if len(found) == 1:
        return found.pop(), section
    note = f"tensors are of several types ({', '.join(sorted(found))}): imported as fp32, which holds them all"
    return "F32", replace(section, notes=(*section.notes, note))


def _tokenizer(hub: HubFolder, section: ModelSection, options: ImportOptions) -> tuple[Tokenizer | None, ModelSection]:
    """The folder's tokenizer, if it has one and it is wanted."""
    found = [name for name in _TOKENIZER_FILES if (hub.path / name).is_file()]
    if not options.tokenizer or not found:
        note = "without a tokenizer: runs and exports need one named (data.tokenizer, --tokenizer)"
        return None, replace(section, notes=(*section.notes, note))
    tokenizer = Tokenizer.load(hub.path / found[0])
    if tokenizer.vocab_size > section.model.vocab:
        raise CheckpointError(
            f"{hub.path / found[0]}: has {tokenizer.vocab_size} tokens, the model has {section.model.vocab}; "
            "is it of another model? --without-tokenizer leaves it out"
        )
    return tokenizer, section


def _said(hub: HubFolder, section: ModelSection, precision: str) -> dict[str, Any]:
    """What the manifest says of a run that there was not: the model, and where it comes from."""
    called, end_of_text = hub.config.get("_name_or_path"), hub.config.get("eos_token_id")
    return {
        "model": section.model.model_dump(mode="json"),
        "train": {"precision": precision},
        "imported": {
            "from": _repository(hub.path.resolve()),
            "named": called if isinstance(called, str) else "",
            "architecture": section.family.ARCHITECTURES[0],
            "config_sha256": hub.config_sha256,
            "end_of_text": end_of_text if type(end_of_text) is int else 0,
        },
    }


def _repository(path: Path) -> str:
    """The folder's name; in a cache of huggingface_hub's, the repository and revision that it keeps there."""
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return f"{path.parent.parent.name.removeprefix('models--').replace('--', '/')}@{path.name}"
    return path.name


def _write(aside: Path, hub: HubFolder, section: ModelSection, dtype: str, state: RunState) -> None:
    """Write the tensors into files of about FILE_BYTES, and the manifest."""
    shapes = logical_shapes(section.model)
    values = (_sound(hub, name, tensor, DTYPES[dtype]) for name, tensor in _own(hub, section))
    files = list(in_files(shapes, DTYPES[dtype].itemsize, FILE_BYTES))
    parts = []
    for number, names in enumerate(files):
        portions = [Portion(name, shapes[name], _block(name, shapes[name]), whole(shapes[name])) for name in names]
        file = f"imported_{number:05d}.safetensors"
        parts.append(write_file(aside, file, portions, ("master",), dtype, islice(values, len(names))))
    write_manifest(aside, state, ("master",), parts)


def _own(hub: HubFolder, section: ModelSection) -> Iterator[tuple[str, Tensor]]:
    found: Iterator[tuple[str, Tensor]] = section.family.own_tensors(section.model, hub.read)
    return found


def _sound(hub: HubFolder, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype`. Raises CheckpointError for nan and inf, which no trained weight is."""
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise CheckpointError(f"{hub.path}: {name} holds nan or inf; the file is damaged, or the model is")
    return tensor.to(dtype)


def in_files(shapes: Mapping[str, tuple[int, ...]], itemsize: int, most: int) -> Iterator[list[str]]:
    """Cut the names, in order, into files of at most `most` bytes, or one tensor where that is larger."""
    held: list[str] = []
    size = 0
    for name, shape in shapes.items():
        own = math.prod(shape) * itemsize
        if held and size + own > most:
            yield held
            held, size = [], 0
        held.append(name)
        size += own
    if held:
        yield held


def _block(name: str, shape: tuple[int, ...]) -> int:
    is_cut = name.endswith(".weight") or "key_value" in name
    return block_elements(shape, _SPLIT_DIM.get(".".join(name.split(".")[2:-1]), 0) if is_cut else None)
