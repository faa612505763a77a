"""Hugging Face's GPTBigCodeForCausalLM as the independent reference of loss, gradients and the exported folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from disk_run import PROJECT, disk_config, make_data, train_rank
from tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeConfig, GPTBigCodeForCausalLM

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface import bigcode
from megacode.checkpoint.huggingface import export as exporting
from megacode.checkpoint.huggingface.bigcode import hub_config, hub_tensors
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.layers.forward_pass import ForwardPass
from megacode.layout.schedules import make_schedule
from megacode.layout.stages import Placement
from megacode.pipeline.runner import Work
from megacode.prove.outcome import assemble_synthetic
from megacode.prove.ranks import run_ranks


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_loss_and_gradients_are_those_of_transformers(kv_heads: int) -> None:
    """Multi-query and multi-head attention, every parameter, with the same weights and tokens."""
    config = tiny_config(model={"kv_heads": kv_heads})
    run = assemble_synthetic(config, 0)
    weights = {spec.name: parameter.detach().clone() for spec, parameter in run.stage.specs()}
    for value in weights.values():  # biases and norms too must matter
        value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())) * 0.05)
    with torch.no_grad():
        for spec, parameter in run.stage.specs():
            parameter.copy_(weights[spec.name])
    batches = run.batches(run.prefetcher, 0)
    work = Work(batches[:1], [ForwardPass()], lambda: 1.0 / batches[0].weights.sum())
    (loss,) = run.runner.run(make_schedule("1f1b", Placement(1), 1), work)

    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(**hub_config(config.model, 0, "float32")))
    model.load_state_dict(dict(hub_tensors(config.model, weights.__getitem__)), strict=False)
    logits = model.eval()(batches[0].tokens).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batches[0].targets.flatten())
    expected.backward()

    torch.testing.assert_close(loss / batches[0].weights.sum(), expected, rtol=1e-5, atol=0)
    theirs = dict(model.named_parameters())
    for name, ours in hub_tensors(config.model, run.optimizer.gradients.by_name.__getitem__):
        gradient = theirs[name].grad
        error = (ours - gradient).abs().max() / gradient.abs().max()
        assert error < 1e-5, f"gradient of {name}: relative error {error:.2e}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 run of a few steps under TP 2 x PP 2; its folder holds the data too."""
    folder = tmp_path_factory.mktemp("trained")
    make_data(folder / "data")
    config = disk_config(
        folder / "data", folder / "run", parallel={"tp": 2, "pp": 2}, train={"steps": 6, "precision": "bf16"}
    )
    run_ranks(4, train_rank, config)
    return folder


def test_the_exported_folder_loads_and_agrees(trained: Path, tmp_path: Path) -> None:
    report = exporting.export(trained / "run", tmp_path / "model")
    assert report.largest_difference is not None and report.largest_difference <= 1e-4
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(model, GPTBigCodeForCausalLM) and model.dtype == torch.bfloat16
    text = "def main(path: str) -> None:\n    print(3.14)\n"
    ours = Tokenizer.load(trained / "data").encode(text)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text)["input_ids"] == ours
    made = model.generate(torch.tensor([ours]), max_new_tokens=4, do_sample=False)
    assert made.shape[1] <= len(ours) + 4


def test_an_export_that_computes_something_else_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The A config.json that names another activation than the one trained with."""

    def trap(*arguments: object) -> dict[str, object]:
        return {**hub_config(*arguments), "activation_function": "relu"}

    monkeypatch.setattr(bigcode, "hub_config", trap)
    with pytest.raises(CheckpointError, match="a logit differs by"):
        exporting.export(trained / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_head_of_its_own(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    config = disk_config(tmp_path / "data", tmp_path / "run", model={"vocab": 512, "tied": False}, train={"steps": 4})
    run_ranks(1, train_rank, config)
    assert exporting.export(tmp_path / "run", tmp_path / "model").largest_difference <= 1e-4
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not torch.equal(model.lm_head.weight, model.transformer.wte.weight)


def test_weights_in_several_files(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SHARD_BYTES", 50_000)
    assert exporting.export(trained / "run", tmp_path / "model").largest_difference <= 1e-4
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


def test_transformers_imports_beside_the_kernels_folder() -> None:
    """A folder `kernels` in the working directory must not be taken for Hugging Face's package of that name."""
    code = "import transformers; from transformers import GPTBigCodeForCausalLM; print(GPTBigCodeForCausalLM.__name__)"
    environment = {"PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "GPTBigCodeForCausalLM", ended.stderr
