"""The optimizer is torch's AdamW on fp32 masters: decay on matrices only, clipping by the global norm, bf16 weights."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config
from torch import nn

from megacode.kernels.dispatch import choose
from megacode.layers.forward_pass import ForwardPass
from megacode.optim.adamw import ShardedAdamW
from megacode.optim.learning_rate import learning_rate
from megacode.parallel.groups import single_rank
from megacode.prove.outcome import assemble_synthetic
from megacode.train.step import train_step


def test_five_steps_are_those_of_torch() -> None:
    """An independent loop over the same model: loss.backward(), clip_grad_norm_, torch.optim.AdamW."""
    config = tiny_config(train={"steps": 5}, optim={"clip": 0.5})
    ours, theirs = assemble_synthetic(config, 0), assemble_synthetic(config, 0)
    leaves = {spec.name: (spec, nn.Parameter(p.detach().clone())) for spec, p in theirs.stage.specs()}
    decayed = [p for spec, p in leaves.values() if spec.decay]
    plain = [p for spec, p in leaves.values() if not spec.decay]
    assert {p.dim() for p in plain} <= {1, 2} and all(
        "bias" in n or "norm" in n for n, (s, _) in leaves.items() if not s.decay
    )
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for step in range(1, 6):
        report = train_step(ours, step, False)
        for spec, parameter in theirs.stage.specs():  # gradients at the reference's own weights
            parameter.data.copy_(leaves[spec.name][1].data)
        train_batch(theirs, step)
        for name, (_, leaf) in leaves.items():
            leaf.grad = theirs.optimizer.gradients.by_name[name].clone()
        theirs.optimizer.gradients.zero()
        norm = nn.utils.clip_grad_norm_([leaf for _, leaf in leaves.values()], 0.5)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(config, step)
        adamw.step()
        assert report.gradient_norm == pytest.approx(float(norm), rel=1e-5)
    for spec, parameter in ours.stage.specs():
        if spec.name.endswith("key_value.bias"):
            # Softmax does not feel a bias on the keys: its gradient is rounding noise, which Adam blows up.
            parameter, leaves[spec.name] = parameter[1], (spec, leaves[spec.name][1][1])
        torch.testing.assert_close(parameter, leaves[spec.name][1], rtol=1e-4, atol=1e-6, msg=spec.name)


def train_batch(run, step: int) -> None:
    """Accumulate the gradients of one global batch."""
    from megacode.pipeline.runner import Work

    batches = run.batches(run.prefetcher, step - 1)
    tokens = sum(batch.weights.sum() for batch in batches)
    run.runner.run(run.schedule, Work(batches, [ForwardPass()] * len(batches), lambda: 1.0 / tokens))


def bf16_optimizer(parameter: nn.Parameter) -> ShardedAdamW:
    """An optimizer of one bf16 matrix."""
    from megacode.layers.spec import ParamSpec, Split

    spec = ParamSpec("matrix.weight", tuple(parameter.shape), Split(0), decay=False)
    return ShardedAdamW([(spec, parameter)], single_rank(), tiny_config().optim, choose("torch", "cpu"))


def test_gradients_of_bf16_weights_add_up_in_fp32() -> None:
    parameter = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer = bf16_optimizer(parameter)
    for share in (1.0, 2.0**-12, 2.0**-12):  # in bf16, 1 + 2^-12 is 1
        (parameter * share).sum().backward()
    assert parameter.grad is not None and parameter.grad.dtype == torch.float32
    assert optimizer.gradients.by_name["matrix.weight"].tolist() == [[1.0 + 2.0**-11] * 2] * 2


def test_updates_below_bf16_resolution_are_not_lost() -> None:
    parameter = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer = bf16_optimizer(parameter)
    for step in range(1, 9):
        optimizer.begin(1)
        parameter.sum().backward()
        optimizer.reduce()
        optimizer.step(step, 1e-3, optimizer.gradient_norm())  # bf16 steps just below 1 are 2^-8 = 3.9e-3
    assert optimizer.state["master"][0].item() == pytest.approx(1.0 - 8e-3, abs=1e-4)
    assert parameter[0, 0].item() == pytest.approx(1.0 - 8e-3, abs=2e-3) and parameter.dtype == torch.bfloat16


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    run = assemble_synthetic(tiny_config(train={"steps": 3}), 0)
    before = run.optimizer.state["master"].clone()
    bias = {spec.name: parameter for spec, parameter in run.stage.specs()}["final_norm.bias"]
    spoil = bias.register_post_accumulate_grad_hook(spoil_gradient)
    report = train_step(run, 1, False)
    assert report.skipped and torch.equal(run.optimizer.state["master"], before)
    spoil.remove()
    report = train_step(run, 2, False)
    assert (report.skipped, report.skipped_steps, report.loss_scale) == (False, 1, 1.0)


def spoil_gradient(parameter: torch.Tensor) -> None:
    """One element is lost in the middle of accumulation."""
    assert parameter.grad is not None
    parameter.grad[3] = float("nan")
