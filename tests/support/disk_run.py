"""A tiny run on real files: a shard of this project's own source, a tokenizer, and whole training runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import tiny_config

from megacode.config.schema import RunConfig
from megacode.data.documents import Document, write_documents
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.tokenizer import train_bpe
from megacode.train.loop import train
from megacode.train.place import Place
from megacode.train.signals import StopRequest

PROJECT = Path(__file__).parents[2]
VOCAB = 512


def make_data(folder: Path) -> None:
    """Write the tokenizer and the shards `train` and `validation` into `folder`."""
    sources = sorted((PROJECT / "megacode" / "config").glob("*.py"))
    documents = [Document(path.name, path.name, "python", path.read_text(encoding="utf-8")) for path in sources]
    tokenizer = train_bpe([document.content for document in documents], VOCAB, "starcoder")
    tokenizer.save(folder)
    for name, part in (("train", documents[1:]), ("validation", documents[:1])):
        write_documents(folder / f"{name}.jsonl.zst", part)
        tokenize(folder / f"{name}.jsonl.zst", tokenizer, folder / name)


def disk_config(data: Path, folder: Path, **sections: dict[str, Any]) -> RunConfig:
    """The tiny run on the files in `data`, with its state in `folder`."""
    own: dict[str, dict[str, Any]] = {
        "model": {"vocab": VOCAB},
        "data": {
            "train": str(data / "train"),
            "validation": str(data / "validation"),
            "tokenizer": str(data),
        },
        "train": {"steps": 16, "validate_sequences": 8, "validate_every": 8},
        "checkpoint": {"folder": str(folder), "every": 3},
    }
    for section, values in sections.items():
        own[section] = {**own.get(section, {}), **values}
    return tiny_config(**own)


def train_rank(rank: int, world_size: int, init_method: str, config: RunConfig) -> bool:
    """One rank of `megacode train`."""
    return train(config, Place(rank, world_size, rank, init_method), StopRequest())


def rows(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """The whole rows of a kind in a run folder's metrics so far."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [row for row in map(json.loads, (line for line in lines if line.endswith("\n"))) if row["kind"] == kind]


def losses(folder: Path) -> list[float]:
    """The training losses so far, step by step."""
    return [row["loss"] for row in rows(folder)]
