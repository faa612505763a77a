"""From Hugging Face into every layout and back: transformers' losses and logits, and every bit of every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_files import edit_config
from hub_models import MODELS, assert_same_tensors
from tiny import tiny_config
from transformers import AutoConfig, AutoModelForCausalLM
from watched_saves import start_and_save

from megacode.checkpoint.decoder import load_decoder, saved_config
from megacode.checkpoint.folders import committed_folder
from megacode.checkpoint.huggingface.export import export
from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
from megacode.checkpoint.read import CheckpointReader
from megacode.config.schema import RunConfig
from megacode.layers.forward_pass import ForwardPass
from megacode.prove.ranks import run_ranks
from megacode.prove.synthetic import RandomTokens

SEQUENCE, SEQUENCES = 32, 4


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under `NAME/model` each model as transformers saves it, under `NAME/base` what import makes of it."""
    folder = tmp_path_factory.mktemp("hub")
    for name, make in MODELS.items():
        make().save_pretrained(folder / name / "model")
        report = import_model(folder / name / "model", folder / name / "base", ImportOptions(compare=False))
        assert report.precision == "fp32" and not report.comparison.largest_difference
    return folder


def tokens_of(count: int, vocab: int) -> torch.Tensor:
    """The made-up samples that the engine's run reads, [count, s + 1]."""
    source = RandomTokens(vocab, SEQUENCE)
    return torch.from_numpy(np.stack([source.sample(index).tokens for index in range(count)]))


@pytest.mark.parametrize("name", MODELS)
def test_the_engines_logits_are_those_of_transformers(name: str, hub: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(hub / name / "model", dtype=torch.float32).eval()
    tokens = tokens_of(2, model.config.vocab_size)[:, :SEQUENCE]
    decoder = load_decoder(CheckpointReader(hub / name / "base"), "fp32")
    with torch.no_grad():
        x = decoder.embed(tokens, torch.arange(SEQUENCE).expand(2, -1), None)
        logits = decoder.logits(decoder(x, ForwardPass()))
        expected = model(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def run_config(base: Path, run: Path, tp: int, pp: int) -> RunConfig:
    """A run of the imported model that starts from it."""
    model = saved_config(CheckpointReader(base)).model.model_dump()
    return tiny_config(
        model={**model, "attention_dropout": 0.0, "hidden_dropout": 0.0, "embedding_dropout": 0.0},
        data={"sequence": SEQUENCE},
        train={"global_batch": SEQUENCES, "steps": 10},
        parallel={"tp": tp, "pp": pp},
        checkpoint={"folder": str(run), "init_from": str(base)},
    )


@pytest.mark.parametrize(
    ("tp", "pp"),
    [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
    ],
)
def test_every_layout_starts_from_it_and_gives_it_back(tp: int, pp: int, hub: Path, tmp_path: Path) -> None:
    configs = [run_config(hub / name / "base", tmp_path / name / "run", tp, pp) for name in MODELS]
    by_rank = run_ranks(tp * pp, start_and_save, configs)
    for name, *losses in zip(MODELS, *by_rank, strict=True):
        assert len(set(losses)) == 1, "all ranks know the whole loss"
        assert losses[0] == pytest.approx(loss_of_transformers(hub / name / "model"), abs=1e-4), name
        export(committed_folder(tmp_path / name / "run", 0), tmp_path / name / "model", compare=False)
        assert_same_tensors(hub / name / "model", tmp_path / name / "model")


def loss_of_transformers(folder: Path) -> float:
    """Mean loss in nats per token over the made-up samples."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tokens_of(SEQUENCES, model.config.vocab_size)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["starcoder multi-head untied", "starcoder2 multi-query window"])
def test_import_and_export_are_bit_equal_in_every_type(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    MODELS[name]().to(dtype).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    import_model(tmp_path / "model", tmp_path / "base", ImportOptions(compare=False))
    export(tmp_path / "base", tmp_path / "back", compare=False)
    assert_same_tensors(tmp_path / "model", tmp_path / "back")
    here, back = (AutoConfig.from_pretrained(tmp_path / folder).to_dict() for folder in ("model", "back"))
    # Released configurations name the last two, and transformers 5 no longer has them.
    spelled = {"_name_or_path", "norm_type", "mlp_type"}
    assert {key for key in {*here, *back} if here.get(key) != back.get(key)} <= spelled


def test_both_ways_compare_logits_in_a_process_of_their_own(tmp_path: Path) -> None:
    """With the erf GELU by name, imported as tanh: transformers is told to compute that too."""
    MODELS["starcoder"]().save_pretrained(tmp_path / "model")
    edit_config(tmp_path / "model", activation_function="gelu")
    options = ImportOptions(activation="gelu_pytorch_tanh", compare=True)
    report = import_model(tmp_path / "model", tmp_path / "base", options)
    assert report.comparison.largest_difference <= 1e-4 and any("gelu" in note for note in report.notes)
    exported = export(tmp_path / "base", tmp_path / "back", compare=True)
    assert exported.largest_difference <= 1e-4 and not exported.tokenizer
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert model.config.activation_function == "gelu_pytorch_tanh"
