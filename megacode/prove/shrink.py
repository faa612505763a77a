"""A configuration of the same structure with toy widths, which a laptop can run."""

from __future__ import annotations

import math
from typing import Any

from megacode.config.load import parse_config
from megacode.config.schema import ModelConfig, ParallelConfig, RunConfig

HEAD_WIDTH = 8
STEPS = 5
MOST_REPLICAS = 2
BUCKET_MEGABYTES = 0.02  # several buckets to a stage
_KEPT = frozenset(
    {"norm_eps", "attention_dropout", "hidden_dropout", "embedding_dropout", "positions", "rope_theta", "tied"}
)


def shrink(config: RunConfig, tp: int, pp: int, dp: int) -> RunConfig:
    """The toy twin of `config` under TP x PP x DP: fp32, on the CPU, a few steps on made-up tokens.

    Kept: kinds of positions, of head and of attention heads (multi-query, grouped, multi-head; above or below tp), the
    window's share of the sequence, the document mask, proportions of the MLP, uneven stages, dropout, norm epsilon,
    order, schedule, recomputation, ZeRO stage, and more micro-batches than stages where there were.
    """
    model, train = config.model, config.train
    heads, kv_heads = _heads(model, tp)
    hidden = heads * HEAD_WIDTH
    order, schedule, chunks = config.parallel.order, config.parallel.schedule, config.parallel.chunks
    if pp == 1 and schedule != "gpipe":
        schedule, chunks = "1f1b", 1
    layers = max(2, pp * chunks) + (1 if model.layers % config.parallel.pp else 0)
    micro_batch = min(train.micro_batch, 2)
    micro_batches = min(config.micro_batches, pp + 2)
    table: dict[str, Any] = {
        "model": {
            **model.model_dump(include=_KEPT),
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": kv_heads,
            "ffn": -(-model.ffn * hidden // (model.hidden * tp)) * tp,
            "vocab": 24 * tp,
            "context": 24 * tp,
            "window": _window(config, 16 * tp),
        },
        "parallel": {"order": order, "schedule": schedule, "chunks": chunks, "tp": tp, "pp": pp, "dp": dp},
        "data": {
            "train": "made up",
            "tokenizer": "made up",
            "sequence": 16 * tp,
            "document_mask": config.data.document_mask,
        },
        "optim": {
            **config.optim.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "clip"}),
            **({"zero_stage": config.optim.zero_stage, "bucket_megabytes": BUCKET_MEGABYTES} if dp > 1 else {}),
            "lr": 1e-3,
        },
        "train": {
            "steps": STEPS,
            "micro_batch": micro_batch,
            "global_batch": micro_batches * dp * micro_batch,
            "precision": "fp32",
            "recompute": train.recompute,
            "recompute_blocks": train.recompute_blocks and min(train.recompute_blocks, -(-layers // (pp * chunks))),
            "seed": train.seed,
        },
        "launch": {"device": "cpu", "timeout_seconds": 120},
        "kernels": {"implementation": "torch"},
    }
    return parse_config(table, "toy widths")


def alone(config: RunConfig) -> RunConfig:
    """The same run in one process."""
    return config.model_copy(update={"parallel": ParallelConfig(order=config.parallel.order)})


def _window(config: RunConfig, sequence: int) -> int | None:
    """The same share of a sequence of `sequence` tokens, at least two keys and so that a shorter one stays shorter."""
    window, whole = config.model.window, config.data.sequence
    if window is None or window >= whole:
        return window
    return min(max(2, round(window * sequence / whole)), sequence - 1)


def _heads(model: ModelConfig, tp: int) -> tuple[int, int]:
    """Query and key-value heads of the same kind, as few as tp allows."""
    if model.kv_heads == model.heads:
        return 2 * tp, 2 * tp
    kv_heads = model.kv_heads if model.kv_heads <= tp else tp * min(2, model.kv_heads // tp)
    if kv_heads % tp and tp % kv_heads:
        kv_heads = math.gcd(kv_heads, tp)
    return 2 * math.lcm(tp, kv_heads), kv_heads
