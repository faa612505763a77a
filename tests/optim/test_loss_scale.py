"""fp16 with dynamic loss scaling is torch's GradScaler around torch's AdamW; an overflow is skipped by all alike."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import replicas
import torch
from tiny import tiny_config
from torch import nn

from megacode.config.schema import LossScaleConfig, RunConfig
from megacode.layers.forward_pass import ForwardPass
from megacode.optim.learning_rate import learning_rate
from megacode.optim.loss_scale import Scaling
from megacode.pipeline.runner import Work
from megacode.prove.outcome import assemble_synthetic
from megacode.train.step import train_step

QUICK = {"initial": 2.0**22, "growth_steps": 3}  # overflows at once, and again whenever it has grown too far


def fp16_config(steps: int = 12, optim: dict[str, Any] | None = None, **parallel: Any) -> RunConfig:
    """The tiny run in fp16."""
    own = {"loss_scale": QUICK, **(optim or {})}
    return tiny_config(parallel=parallel, optim=own, train={"steps": steps, "precision": "fp16"})


def test_the_scale_moves_as_torchs() -> None:
    config = LossScaleConfig(initial=1024.0, growth_steps=4, minimum=2.0**-40)
    scaling, chance = Scaling(config.initial), random.Random(1)
    scale, tracker = torch.tensor([config.initial]), torch.tensor([0], dtype=torch.int32)
    skipped = 0
    for _ in range(200):
        is_finite = chance.random() < 0.8
        skipped += not is_finite
        torch._amp_update_scale_(scale, tracker, torch.tensor([float(not is_finite)]), 2.0, 0.5, config.growth_steps)
        scaling = scaling.after(is_finite, config)
        assert (scaling.scale, scaling.good_steps, scaling.skipped_steps) == (scale.item(), tracker.item(), skipped)


def test_the_scale_has_a_floor_and_other_precisions_have_none() -> None:
    assert Scaling(8.0, 3).after(False, LossScaleConfig(minimum=8.0)) == Scaling(8.0, 0, 1)
    assert Scaling().after(True, None) == Scaling() and Scaling().after(False, None) == Scaling(1.0, 0, 1)


def test_fp16_steps_are_those_of_grad_scaler() -> None:
    """An independent loop: scaled backward, GradScaler.unscale_, clip_grad_norm_, GradScaler.step on torch's AdamW."""
    config = fp16_config(optim={"clip": 0.5})
    ours, theirs = assemble_synthetic(config, 0), assemble_synthetic(config, 0)
    leaves = {spec.name: (spec, nn.Parameter(p.detach().float())) for spec, p in theirs.stage.specs()}
    groups = [
        {"params": [p for spec, p in leaves.values() if spec.decay is decay], "weight_decay": 0.1 * decay}
        for decay in (True, False)
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    scaler = torch.amp.GradScaler("cpu", init_scale=QUICK["initial"], growth_interval=QUICK["growth_steps"])
    scaler.scale(torch.ones(()))
    reports = []
    for step in range(1, config.train.steps + 1):
        reports.append(train_step(ours, step, False))
        assert reports[-1].loss_scale == scaler.get_scale(), f"step {step}"
        for spec, parameter in theirs.stage.specs():
            parameter.data.copy_(leaves[spec.name][1].data)
        theirs.optimizer.gradients.zero()
        batches = theirs.batches(theirs.prefetcher, step - 1)
        scale = scaler.get_scale() / sum(batch.weights.sum() for batch in batches)
        theirs.runner.run(theirs.schedule, Work(batches, [ForwardPass()] * len(batches), lambda by=scale: by))
        for name, (_, leaf) in leaves.items():
            leaf.grad = theirs.optimizer.gradients.by_name[name].clone()
        scaler.unscale_(adamw)
        norm = nn.utils.clip_grad_norm_([leaf for _, leaf in leaves.values()], 0.5)
        if not reports[-1].skipped:
            # Once updated, a weight that rounds to its other fp16 neighbour moves the norm by some 1e-4.
            tolerance = 1e-6 if all(report.skipped for report in reports[:-1]) else 3e-4
            assert reports[-1].gradient_norm == pytest.approx(float(norm), rel=tolerance)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(config, step)
        scaler.step(adamw)
        scaler.update()
    skipped = [report.skipped for report in reports]
    assert skipped[0] and not all(skipped) and any(skipped[skipped.index(False) :]), (
        f"{skipped}: shrinks, grows, shrinks"
    )
    assert reports[-1].skipped_steps == sum(skipped)
    for spec, parameter in ours.stage.specs():
        if not spec.name.endswith("key_value.bias"):  # no gradient but rounding noise
            expected = leaves[spec.name][1].half()
            torch.testing.assert_close(parameter, expected, rtol=2e-2, atol=1e-3, msg=spec.name)


@pytest.mark.parametrize("layout", [{"dp": 2}, {"tp": 2, "pp": 2}], ids=str)
def test_an_overflow_on_one_rank_is_skipped_by_all(layout: dict[str, int]) -> None:
    config = fp16_config(6, {"loss_scale": {"initial": 1024.0}}, **layout)
    ranks = replicas.train(config, spoiled=3)
    for rank in ranks:
        assert rank.skipped == [False, False, True, False, False, False]
        assert rank.scales == [1024.0] * 3 + [512.0] * 3
        assert not np.isfinite(rank.norms[2]) and np.isfinite(rank.norms[3:]).all()
        assert rank.losses == ranks[0].losses and np.isfinite(rank.losses).all()


def test_the_scale_does_not_show_in_losses_and_norms() -> None:
    low, high = (
        replicas.train(fp16_config(4, {"loss_scale": {"initial": scale}}, dp=2))[0] for scale in (256.0, 4096.0)
    )
    assert not any(low.skipped + high.skipped)
    np.testing.assert_allclose(low.losses, high.losses, rtol=1e-3)
    np.testing.assert_allclose(low.norms, high.norms, rtol=1e-2)
