"""A Hugging Face model folder as others wrote it: config.json, and safetensors in one file or in several with an index.

Every tensor's type and shape is known from the files' headers; its numbers are read when asked for, one at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
DTYPES = MappingProxyType({"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16})
_SHOWN = 20


@dataclass(frozen=True)
class HubTensor:
    """Where a tensor is, and what: dtype by safetensors' name, and shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class HubFolder:
    """A folder that has been looked over: `config` is config.json's table, `config_sha256` of its bytes."""

    path: Path
    config: Mapping[str, Any]
    config_sha256: str
    tensors: Mapping[str, HubTensor]

    @classmethod
    def open(cls, path: Path) -> HubFolder:
        """Read config.json, the index and the headers. Raises CheckpointError that names what is missing or damaged."""
        if not path.is_dir():
            raise CheckpointError(f"{path}: is no folder; download the model first, and name the folder it is in")
        config = _read_json(path / CONFIG)
        digest = hashlib.sha256((path / CONFIG).read_bytes()).hexdigest()
        return cls(path, config, digest, _tensors(path))

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor, as they are stored; they stay mapped to the file until they are forgotten."""
        file = self.path / self.tensors[name].file
        with _opened(file) as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def same(self, first: str, second: str) -> bool:
        """Whether two matrices have the same shape and numbers; only a few rows of both are held at once."""
        a, b = self.tensors[first], self.tensors[second]
        if a.shape != b.shape or len(a.shape) != 2:
            return False
        left, right, rows = self.read(first), self.read(second), max(1, (1 << 24) // max(1, a.shape[1]))
        return all(
            torch.equal(left[at : at + rows].float(), right[at : at + rows].float()) for at in range(0, len(left), rows)
        )


def named(names: list[str]) -> str:
    """Some names of a list that may be long, and how many more there are."""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _tensors(path: Path) -> dict[str, HubTensor]:
    if (path / WEIGHTS).is_file():
        return _headers(path, [WEIGHTS])
    if (path / INDEX).is_file():
        return _indexed(path)
    if any((path / name).is_file() for name in PICKLED):
        raise CheckpointError(
            f"{path}: has its weights as pytorch_model.bin only. That is a pickle, which can run any code; megacode "
            "opens none. Convert it first: load it with transformers and call save_pretrained on another folder"
        )
    raise CheckpointError(f"{path}: has neither {WEIGHTS} nor {INDEX}; is the download complete?")


def _indexed(path: Path) -> dict[str, HubTensor]:
    table = _read_json(path / INDEX)
    places = table.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path / INDEX}: has no weight_map")
    files = sorted({str(file) for file in places.values()})
    if outside := [file for file in files if Path(file).name != file]:
        raise CheckpointError(f"{path / INDEX}: names files that are not in its folder: {named(outside)}")
    if gone := [file for file in files if not (path / file).is_file()]:
        raise CheckpointError(f"{path}: {len(gone)} of {len(files)} files of the index are missing: {named(gone)}")
    found = _headers(path, files)
    held = {name: tensor.file for name, tensor in found.items()}
    wrong = [f"{name} is not in {file}" for name, file in places.items() if held.get(name) != file]
    wrong += [f"{name} of {tensor.file} is not in the index" for name, tensor in found.items() if name not in places]
    if wrong:
        raise CheckpointError(f"{path / INDEX}: does not fit the files: {named(sorted(wrong))}")
    return found


def _headers(path: Path, files: list[str]) -> dict[str, HubTensor]:
    tensors: dict[str, HubTensor] = {}
    for file in files:
        with _opened(path / file) as opened:
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                if name in tensors:
                    raise CheckpointError(f"{path}: {name} is both in {tensors[name].file} and in {file}")
                part = opened.get_slice(name)
                tensors[name] = HubTensor(file, part.get_dtype(), tuple(part.get_shape()))
    return tensors


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error}); download it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is this a Hugging Face model?") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: holds no table")
    return table
