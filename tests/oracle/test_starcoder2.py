"""Hugging Face's Starcoder2ForCausalLM as the independent reference of loss, gradients and the exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_run import disk_config, make_data, train_rank
from tiny import tiny_config
from transformers import AutoModelForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface import export as exporting
from megacode.checkpoint.huggingface import starcoder2
from megacode.checkpoint.huggingface.starcoder2 import hub_config, hub_tensors
from megacode.config.schema import ModelConfig
from megacode.kernels import torch_elementwise
from megacode.layers.forward_pass import ForwardPass
from megacode.layout.schedules import make_schedule
from megacode.layout.stages import Placement
from megacode.pipeline.runner import Work
from megacode.prove.outcome import assemble_synthetic
from megacode.prove.ranks import run_ranks

ROTARY = {"positions": "rotary", "rope_theta": 1e4, "kv_heads": 2}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("window", [None, 5])
def test_loss_and_gradients_are_those_of_transformers(window: int | None, tied: bool) -> None:
    """Grouped-query attention over 32 tokens, every parameter, with the same weights and tokens."""
    config = tiny_config(model={**ROTARY, "window": window, "tied": tied})
    run = assemble_synthetic(config, 0)
    weights = {spec.name: parameter.detach().clone() for spec, parameter in run.stage.specs()}
    for value in weights.values():  # biases and norms too must matter
        value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())) * 0.1)
    with torch.no_grad():
        for spec, parameter in run.stage.specs():
            parameter.copy_(weights[spec.name])
    batches = run.batches(run.prefetcher, 0)
    work = Work(batches[:1], [ForwardPass()], lambda: 1.0 / batches[0].weights.sum())
    (loss,) = run.runner.run(make_schedule("1f1b", Placement(1), 1), work)

    model = Starcoder2ForCausalLM(Starcoder2Config(**hub_config(config.model, 0, "float32")))
    loading = model.load_state_dict(dict(hub_tensors(config.model, weights.__getitem__)), strict=False)
    assert (loading.missing_keys, loading.unexpected_keys) == (["lm_head.weight"] if tied else [], [])
    logits = model.eval()(batches[0].tokens).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batches[0].targets.flatten())
    expected.backward()

    torch.testing.assert_close(loss / batches[0].weights.sum(), expected, rtol=1e-5, atol=0)
    theirs = dict(model.named_parameters())
    ours = dict(hub_tensors(config.model, run.optimizer.gradients.by_name.__getitem__))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        largest = theirs[name].grad.abs().max()
        # A softmax does not feel a bias of all keys, but with rotary positions it does, so there is no gradient of 0.
        error = (gradient - theirs[name].grad).abs().max() / largest
        assert error < 1e-5, f"gradient of {name}: relative error {error:.2e}"


def test_bf16_heads_turn_by_fp32_angles() -> None:
    """At the end of a long context bf16 would round positions to multiples of 64, whole turns of the first elements."""
    x = torch.randn(1, 16384, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    positions = torch.arange(16384)
    turned = torch_elementwise.rotary(x.clone(), 1e5)
    assert turned.dtype == torch.bfloat16
    angle = positions.double()[:, None] * 1e5 ** (-torch.arange(4) / 4).double()
    circle = torch.polar(torch.ones_like(angle), angle).unsqueeze(1)
    expected = torch.complex(x[..., :4].double(), x[..., 4:].double()) * circle
    torch.testing.assert_close(turned.double(), torch.cat([expected.real, expected.imag], -1), rtol=8e-3, atol=8e-3)


def test_the_released_configurations() -> None:
    """What bigcode/starcoder2-3b names, in both spellings of the rotary base, as transformers reads it."""
    model = ModelConfig(
        layers=30, hidden=3072, heads=24, kv_heads=2, positions="rotary", rope_theta=999999.5, window=4096
    )
    told = Starcoder2Config(**hub_config(model, 0, "bfloat16"))
    assert told.rope_parameters["rope_theta"] == hub_config(model, 0, "bfloat16")["rope_theta"] == 999999.5
    assert (told.sliding_window, told.num_key_value_heads, told.intermediate_size) == (4096, 2, 12288)
    assert told.tie_word_embeddings and told.hidden_act == "gelu_pytorch_tanh" and told.use_bias


def trained(folder: Path, **model: Any) -> Path:
    """A bf16 run of a few steps under TP 2 x PP 2; its folder holds the data too."""
    make_data(folder / "data")
    config = disk_config(
        folder / "data",
        folder / "run",
        model={"vocab": 512, "context": 64, **ROTARY, **model},
        parallel={"tp": 2, "pp": 2},
        train={"steps": 6, "precision": "bf16"},
    )
    run_ranks(4, train_rank, config)
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a head of its own, and a window shorter than the probe of an export."""
    return trained(tmp_path_factory.mktemp("untied"), tied=False, window=12)


def test_the_exported_folder_loads_and_agrees(untied: Path, tmp_path: Path) -> None:
    report = exporting.export(untied / "run", tmp_path / "model")
    assert report.largest_difference is not None and report.largest_difference <= 1e-4
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(model, Starcoder2ForCausalLM) and model.dtype == torch.bfloat16
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False).shape[1] <= 7


def test_a_tied_model_of_whole_context_is_exported_without_a_head(tmp_path: Path) -> None:
    report = exporting.export(trained(tmp_path) / "run", tmp_path / "model")
    assert report.largest_difference is not None and report.largest_difference <= 1e-4
    told = json.loads((tmp_path / "model" / "config.json").read_text())
    assert told["tie_word_embeddings"] is True and told["sliding_window"] is None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "wrong",
    [
        {"sliding_window": 13},
        {"sliding_window": None},
        {"rope_theta": 2e4, "rope_parameters": {"rope_type": "default", "rope_theta": 2e4}},
    ],
)
def test_an_export_that_computes_something_else_is_refused(
    wrong: dict[str, Any], untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window one key too wide, or a base of the angles that was not trained with."""

    def trap(*arguments: Any) -> dict[str, Any]:
        return {**hub_config(*arguments), **wrong}

    monkeypatch.setattr(starcoder2, "hub_config", trap)
    with pytest.raises(CheckpointError, match="a logit differs by"):
        exporting.export(untied / "run", tmp_path / "model")
