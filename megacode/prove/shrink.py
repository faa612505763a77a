"""A configuration of the same structure with toy widths, which a laptop can run."""

from __future__ import annotations

import math
from typing import Any

from megacode.config.load import parse_config
from megacode.config.schema import ModelConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig
from megacode.prove.layouts import Layout

HEAD_WIDTH = 8
STEPS = 20
LEARNING_RATE = 1e-3
MOST_REPLICAS = 2
BUCKET_MEGABYTES = 0.02  # several buckets to a stage
_KEPT = frozenset(
    {"norm_eps", "attention_dropout", "hidden_dropout", "embedding_dropout", "positions", "rope_theta", "tied"}
)


def shrink(config: RunConfig, layout: Layout) -> RunConfig:
    """The toy twin of `config` in `layout`: fp32, on the CPU, a few steps on made-up tokens.

    Kept: kinds of positions, of head and of attention heads (multi-query, grouped, multi-head; above or below tp), the
    window's share of the sequence, the document mask, proportions of the MLP, uneven stages, dropout, norm epsilon,
    order, schedule and its chunks, recomputation, ZeRO stage, and more micro-batches than stages where there were.
    """
    model, train = config.model, config.train
    heads, kv_heads = _heads(model, layout.tp)
    hidden = heads * HEAD_WIDTH
    tp, pp, dp = layout.tp, layout.pp, layout.dp
    schedule, chunks = _schedule(config.parallel, layout)
    stage_layers = _stage_layers(config.parallel, pp * chunks)
    layers = sum(stage_layers) or max(2, pp * chunks) + (1 if model.layers % config.parallel.pp else 0)
    most = max(stage_layers or [-(-layers // (pp * chunks))])
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
        "parallel": {
            "tp": tp,
            "pp": pp,
            "dp": dp,
            "order": config.parallel.order,
            "schedule": schedule,
            "chunks": chunks,
            "stage_layers": stage_layers,
        },
        "data": {
            "train": "made up",
            "tokenizer": "made up",
            "sequence": 16 * tp,
            "document_mask": config.data.document_mask,
        },
        "optim": {
            **config.optim.model_dump(include={"beta1", "beta2", "eps", "weight_decay", "clip"}),
            **({"zero_stage": config.optim.zero_stage, "bucket_megabytes": BUCKET_MEGABYTES} if dp > 1 else {}),
            "lr": LEARNING_RATE,
        },
        "train": {
            "steps": STEPS,
            "micro_batch": micro_batch,
            "global_batch": micro_batches * dp * micro_batch,
            "precision": "fp32",
            "recompute": train.recompute,
            "recompute_blocks": train.recompute_blocks and min(train.recompute_blocks, most),
            "seed": train.seed,
        },
        "launch": {"device": "cpu", "timeout_seconds": 120},
        "kernels": {"implementation": "torch"},
    }
    return parse_config(table, "toy widths")


def alone(config: RunConfig) -> RunConfig:
    """The same run in one process, recomputing nothing: what all layouts of one model are held to."""
    optim = {"zero_stage", "bucket_megabytes"}
    return config.model_copy(
        update={
            "parallel": ParallelConfig(),
            "optim": config.optim.model_copy(update={name: OptimConfig.model_fields[name].default for name in optim}),
            "train": config.train.model_copy(
                update={name: TrainConfig.model_fields[name].default for name in ("recompute", "recompute_blocks")}
            ),
        }
    )


def _schedule(parallel: ParallelConfig, layout: Layout) -> tuple[str, int]:
    """Schedule and chunks: those of the layout, else of the configuration where they make sense there."""
    schedule, chunks = layout.schedule or parallel.schedule, layout.chunks
    if layout.pp == 1 and layout.schedule is None and schedule != "gpipe":
        schedule = "1f1b"
    if chunks is None:
        own = parallel.chunks if schedule == parallel.schedule else 1
        chunks = max(2, own) if schedule in ("interleaved", "zb-v") else 1
    return schedule, chunks


def _stage_layers(parallel: ParallelConfig, parts: int) -> tuple[int, ...]:
    """Two layers where the configuration gives a part more of them than the least, else one; () without its counts."""
    counts = parallel.stage_layers
    if len(counts) != parts:
        return ()
    return tuple(2 if count > min(counts) else 1 for count in counts)


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
