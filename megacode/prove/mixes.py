"""The mixes that `megacode verify --all` holds to one process: a layout and what is special about the model and run.

All are fp32 on the CPU, of a decoder with 4 layers, 4 heads of width 8, learned positions and a tied head; steps of 4
sequences of 16 tokens, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.prove.layouts import Layout
from megacode.prove.shrink import BUCKET_MEGABYTES, LEARNING_RATE, STEPS

# What a word of the table sets.
WORDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mqa": {"model.kv_heads": 1},
        "gqa": {"model.kv_heads": 2},
        "mha": {"model.kv_heads": 4},
        "rotary": {"model.positions": "rotary"},
        "untied": {"model.tied": False},
        "window": {"model.window": 5},
        "documents": {"data.document_mask": True},
        "dropout": {
            "model.attention_dropout": 0.1,
            "model.hidden_dropout": 0.1,
            "model.embedding_dropout": 0.1,
        },
        "3-layers": {"model.layers": 3},
        "6-layers": {"model.layers": 6},
        "8-layers": {"model.layers": 8},
        "12-layers": {"model.layers": 12},
        "selective": {"train.recompute": "selective"},
        "full": {"train.recompute": "full"},
        "full-1": {"train.recompute": "full", "train.recompute_blocks": 1},
        "pairs": {"train.micro_batch": 2},
        "batch-6": {"train.global_batch": 6},
        "batch-8": {"train.global_batch": 8},
        "zero-0": {"optim.zero_stage": 0},
        "pp-before-dp": {"parallel.order": "tp-pp-dp"},
        "stages-1-3": {"parallel.stage_layers": (1, 3)},
        "stages-2-1-2-1": {"parallel.stage_layers": (2, 1, 2, 1)},
        "stages-3-1-1-3": {"parallel.stage_layers": (3, 1, 1, 3)},
    }
)

TABLE: tuple[tuple[str, str], ...] = (
    # one axis at a time
    ("2x1x1", "mqa dropout"),
    ("4x1x1", "mqa"),
    ("4x1x1", "gqa rotary untied"),
    ("2x1x1", "mha selective"),
    ("1x2x1:1f1b", "mqa dropout"),
    ("1x4x1:1f1b", "mha"),
    ("1x1x2", "mqa dropout"),
    ("1x1x4", "gqa rotary untied"),
    ("1x1x4", "gqa rotary untied zero-0"),
    # two and three axes
    ("2x2x1:1f1b", "gqa rotary untied window dropout"),
    ("2x1x2", "mha full"),
    ("4x1x2", "gqa rotary untied window dropout zero-0"),
    ("1x2x2:1f1b", "mqa dropout pp-before-dp"),
    ("2x2x2:1f1b", "mqa dropout"),
    ("2x2x2:1f1b", "mqa dropout zero-0 pp-before-dp full-1"),
    ("2x3x1:1f1b", "3-layers gqa rotary window documents selective"),
    ("2x2x2:1f1b", "gqa rotary window documents pairs"),
    ("1x2x2:1f1b", "mqa batch-6 dropout"),
    ("1x2x1:1f1b", "mqa stages-1-3"),
    # gpipe
    ("1x2x1:gpipe", "mqa dropout full"),
    ("2x4x1:gpipe", "gqa rotary untied selective"),
    ("4x2x2:gpipe", "gqa rotary untied window dropout"),
    # interleaved
    ("1x2x1:interleaved:2", "mqa dropout"),
    ("1x2x2:interleaved:3", "6-layers mqa dropout zero-0"),
    ("2x2x1:interleaved:2", "gqa rotary window documents"),
    ("2x2x2:interleaved:2", "gqa rotary untied window dropout selective"),
    ("1x4x1:interleaved:2", "8-layers mqa batch-6 dropout"),
    ("1x4x1:interleaved:3", "12-layers gqa rotary untied"),
    ("2x2x1:interleaved:2", "6-layers mqa dropout stages-2-1-2-1 full"),
    ("1x4x2:interleaved:2", "8-layers mha documents pp-before-dp"),
    # zero bubble, H1
    ("1x2x1:zb-h1", "mqa dropout"),
    ("1x4x1:zb-h1", "mha batch-6 selective"),
    ("2x2x1:zb-h1", "gqa rotary window documents"),
    ("2x2x2:zb-h1", "mqa dropout zero-0"),
    ("1x2x4:zb-h1", "gqa rotary untied window dropout full batch-8"),
    ("4x2x1:zb-h1", "gqa rotary untied pp-before-dp"),
    ("2x2x1:zb-h1", "mqa stages-1-3 full-1"),
    # zero bubble, V
    ("1x2x1:zb-v", "mqa dropout"),
    ("1x4x1:zb-v", "8-layers mqa batch-6 dropout"),
    ("2x2x1:zb-v", "gqa rotary window documents selective"),
    ("2x2x2:zb-v", "gqa rotary untied window dropout"),
    ("1x2x4:zb-v", "mqa dropout zero-0 batch-8"),
    ("1x2x2:zb-v", "mha full pp-before-dp"),
    ("2x2x1:zb-v", "8-layers mqa dropout stages-3-1-1-3"),
    ("4x2x1:zb-v", "gqa rotary untied"),
    # sixteen ranks
    ("4x4x1:1f1b", "mqa dropout"),
    ("4x4x1:zb-h1", "gqa rotary untied window dropout"),
    ("4x4x1:interleaved:2", "8-layers mqa batch-6 dropout"),
    ("2x4x2:zb-v", "8-layers mqa batch-8 dropout zero-0"),
    ("4x1x4", "mqa dropout selective"),
    ("2x2x4:interleaved:2", "gqa rotary window documents"),
)


@dataclass(frozen=True)
class Mix:
    """A line of the table: a layout and the words that say what is special."""

    layout: Layout
    words: tuple[str, ...]

    def config(self) -> RunConfig:
        """The run, of toy widths."""
        table: dict[str, dict[str, Any]] = {
            "model": {"layers": 4, "hidden": 32, "heads": 4, "vocab": 48, "context": 24},
            "parallel": self.layout.settings(),
            "data": {"train": "made up", "tokenizer": "made up", "sequence": 16},
            "optim": {"lr": LEARNING_RATE, "clip": 1.0},
            "train": {"steps": STEPS, "global_batch": 4, "micro_batch": 1, "precision": "fp32"},
            "launch": {"device": "cpu", "timeout_seconds": 120},
            "kernels": {"implementation": "torch"},
        }
        if self.layout.dp > 1:
            table["optim"]["bucket_megabytes"] = BUCKET_MEGABYTES
        for word in self.words:
            for name, value in WORDS[word].items():
                section, field = name.split(".")
                table[section][field] = value
        return parse_config(table, str(self))

    def __str__(self) -> str:
        return f"{self.layout} {' '.join(self.words)}"


def mixes() -> tuple[Mix, ...]:
    """All of the table, in its order."""
    return tuple(Mix(Layout.parse(layout), tuple(words.split())) for layout, words in TABLE)
