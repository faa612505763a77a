"""A run small enough to be made again and again."""

from __future__ import annotations

from typing import Any

from megacode.config.load import parse_config
from megacode.config.schema import RunConfig


def tiny_config(**sections: dict[str, Any]) -> RunConfig:
    """A two-layer fp32 StarCoder on the CPU; sections are merged over it."""
    table: dict[str, dict[str, Any]] = {
        "model": {"layers": 2, "hidden": 48, "heads": 4, "vocab": 96, "context": 40},
        "data": {"train": "unused", "tokenizer": "unused", "sequence": 32},
        "optim": {"lr": 3e-3, "lr_warmup": 2},
        "train": {"steps": 10, "global_batch": 8, "precision": "fp32"},
        "launch": {"device": "cpu", "timeout_seconds": 60},
    }
    for section, values in sections.items():
        table[section] = {**table.get(section, {}), **values}
    return parse_config(table, "tiny")
