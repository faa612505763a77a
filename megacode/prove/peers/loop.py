"""The training loop that anyone writes first: micro-batches, autocast, DistributedDataParallel, clip, AdamW.

bf16 is autocast over fp32 weights, the usual mixed precision; fp32 is fp32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from worker import Serve, Setup

Logits = Callable[[nn.Module, Tensor], Tensor]


def check(setup: Setup) -> None:
    """Refuse what a plain loop does not do."""
    parallel, model = setup.config["parallel"], setup.config["model"]
    setup.refuse_unless(parallel["tp"] == parallel["pp"] == 1, "has data parallelism only")
    dropout = [model[f"{where}_dropout"] for where in ("attention", "hidden", "embedding")]
    setup.refuse_unless(not any(dropout), "is measured without dropout; set model's dropouts to 0")
    setup.refuse_unless(setup.config["train"]["recompute"] == "none", "is measured without recomputation")


def train(setup: Setup, model: nn.Module, logits: Logits, serve: Serve) -> None:
    """Serve steps of `model`; `logits(model, tokens)` are [b, s, v] for tokens [b, s]."""
    optim = setup.config["optim"]
    model = model.to(setup.device).train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optim["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=optim["lr"],
        betas=(optim["beta1"], optim["beta2"]),
        eps=optim["eps"],
        fused=True,
    )
    with setup.world():
        net = nn.parallel.DistributedDataParallel(model) if setup.world_size > 1 else model
        replicas = setup.world_size > 1

        def step(number: int) -> dict[str, Any]:
            total = torch.zeros((), device=setup.device)
            batches = setup.batches(number, setup.rank)
            for index, (tokens, targets) in enumerate(batches):
                later = replicas and index < len(batches) - 1
                with net.no_sync() if later else nullcontext():
                    with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.dtype == torch.bfloat16):
                        scores = logits(net, tokens)
                    loss = cross_entropy(scores.float().flatten(0, 1), targets.flatten()) / len(batches)
                    loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return {"loss": float(total)}

        serve(step, {"parameters": sum(parameter.numel() for parameter in model.parameters())})
