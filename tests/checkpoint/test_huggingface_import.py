"""Hugging Face folders as others write them: each is imported as what it computes, or refused in one clear message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hub_files import BIGCODE, STARCODER2, edit_config, write_hub, write_weights

from megacode.checkpoint.decoder import load_decoder, saved_config
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface import import_model as importing
from megacode.checkpoint.huggingface.import_model import ImportOptions, ImportReport
from megacode.checkpoint.huggingface.model_section import render_section
from megacode.checkpoint.huggingface.names import logical_shapes
from megacode.checkpoint.read import CheckpointReader, verify
from megacode.config.load import parse_config
from megacode.data.errors import DataError
from megacode.data.tokenizers.tokenizer import Tokenizer, train_bpe
from megacode.evaluate.complete import Completer, Sampling

BOTH = pytest.mark.parametrize("model", [BIGCODE, STARCODER2], ids=["bigcode", "starcoder2"])


def taken(folder: Path, **options: Any) -> ImportReport:
    """What import makes of `folder`, in a folder beside it."""
    out = folder.with_name(f"{folder.name}-imported")
    return importing.import_model(folder, out, ImportOptions(**{"compare": False, **options}))


def refused(folder: Path, **options: Any) -> str:
    """The message that import refuses `folder` with; nothing is left behind."""
    with pytest.raises(CheckpointError) as caught:
        taken(folder, **options)
    assert not [path for path in folder.parent.iterdir() if "imported" in path.name]
    return str(caught.value)


@BOTH
def test_the_checkpoint_is_sound_and_says_where_it_comes_from(model: dict[str, Any], tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", torch.bfloat16, **model)
    report = taken(tmp_path / "hub")
    reader = CheckpointReader(report.folder)
    verify(report.folder, reader.manifest)
    assert reader.manifest.kinds == ("master",) and reader.manifest.state.step == 0
    said = reader.manifest.state.config["imported"]
    assert said["from"] == "hub" and len(said["config_sha256"]) == 64 and said["architecture"] == report.architecture
    config = saved_config(reader)
    assert config.train.precision == report.precision == "bf16"
    assert {name: getattr(config.model, name) for name in model} == model
    names = {spec.name: spec.shape for spec, _ in _specs(reader)}
    assert (
        names
        == {name: tensor.shape for name, tensor in reader.manifest.tensors.items()}
        == logical_shapes(report.model)
    )


def _specs(reader: CheckpointReader) -> list[Any]:
    from megacode.layers.spec import named_specs

    return list(named_specs(load_decoder(reader, "fp32")))


def test_a_folder_of_the_hubs_cache_is_called_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--bigcode--starcoder2-3b" / "snapshots" / "733247c5"
    write_hub(folder, **STARCODER2)
    said = CheckpointReader(taken(folder).folder).manifest.state.config["imported"]
    assert said["from"] == "bigcode/starcoder2-3b@733247c5"


@BOTH
def test_the_printed_section_is_the_model(model: dict[str, Any], tmp_path: Path) -> None:
    import tomllib

    write_hub(tmp_path / "hub", **model, attention_dropout=0.1, norm_eps=1e-6)
    report = taken(tmp_path / "hub")
    table = tomllib.loads(render_section(report.model))
    rest = {
        "data": {"train": "x", "tokenizer": "x", "sequence": 24},
        "optim": {"lr": 1.0},
        "train": {"steps": 1, "global_batch": 1},
    }
    assert parse_config({**table, **rest}, "printed").model == report.model


# What a config.json may say, and what the model section then says.
SPELLINGS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (BIGCODE, {"n_inner": None}, {"ffn": 128}),
    (BIGCODE, {"n_inner": ...}, {"ffn": 128}),
    (BIGCODE, {"activation_function": "gelu_new", "resid_pdrop": 0}, {"hidden_dropout": 0.0}),
    (BIGCODE, {"architectures": ["GPTBigCodeLMHeadModel"]}, {}),
    (BIGCODE, {"attention_softmax_in_fp32": False, "max_batch_size": None, "summary_type": "cls_index"}, {}),
    (STARCODER2, {"rope_parameters": ...}, {"rope_theta": 2e4}),
    (STARCODER2, {"rope_theta": ...}, {"rope_theta": 2e4}),
    (STARCODER2, {"rope_theta": ..., "rope_parameters": ...}, {"rope_theta": 1e4}),
    (STARCODER2, {"rope_theta": 20000, "rope_parameters": ..., "rope_scaling": None}, {"rope_theta": 2e4}),
    (STARCODER2, {"sliding_window": 7, "layer_types": ["sliding_attention"] * 2}, {"window": 7}),
    (STARCODER2, {"sliding_window": 4096}, {"window": 4096}),
    (STARCODER2, {"head_dim": 8, "residual_dropout": 0.1, "norm_type": ...}, {"hidden_dropout": 0.1}),
]


@pytest.mark.parametrize(("model", "changes", "expected"), SPELLINGS)
def test_every_spelling_is_understood(
    model: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    write_hub(tmp_path / "hub", **model)
    edit_config(tmp_path / "hub", **changes)
    report = taken(tmp_path / "hub")
    assert {name: getattr(report.model, name) for name in expected} == expected
    assert not [note for note in report.notes if "does not know" in note]


# What megacode does not compute, and what is said of it.
FOREIGN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (BIGCODE, {"model_type": "llama"}, "model_type = 'llama'"),
    (BIGCODE, {"architectures": ["GPTBigCodeForSequenceClassification"]}, "computes GPTBigCodeForCausalLM"),
    (BIGCODE, {"activation_function": "gelu"}, "--activation gelu_pytorch_tanh"),
    (BIGCODE, {"activation_function": "relu"}, "activation_function = 'relu'"),
    (BIGCODE, {"scale_attn_weights": False}, "scale_attn_weights = False"),
    (BIGCODE, {"add_cross_attention": True}, "add_cross_attention = True"),
    (BIGCODE, {"multi_query": 1}, "multi_query = 1 .*true or false"),
    (BIGCODE, {"n_head": 5}, "n_head = 5 .*must divide model.hidden"),
    (BIGCODE, {"n_layer": "2"}, "n_layer = '2' .*whole number"),
    (BIGCODE, {"n_embd": ...}, "n_embd .*is missing"),
    (BIGCODE, {"attn_pdrop": 1.0}, "attn_pdrop = 1.0"),
    (BIGCODE, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config = 'gptq'"),
    (STARCODER2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling = type 'yarn'"),
    (STARCODER2, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters = type 'linear'"),
    (STARCODER2, {"rope_theta": 1e5}, "rope_theta .* differ"),
    (STARCODER2, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    (STARCODER2, {"use_bias": False}, "use_bias = False"),
    (STARCODER2, {"attention_bias": False}, "attention_bias = False"),
    (STARCODER2, {"norm_type": "rms_norm"}, "norm_type = 'rms_norm'"),
    (STARCODER2, {"mlp_type": "gated"}, "mlp_type = 'gated'"),
    (STARCODER2, {"head_dim": 16}, "head_dim = 16"),
    (STARCODER2, {"hidden_act": "silu"}, "hidden_act = 'silu'"),
    (STARCODER2, {"sliding_window": 0}, "sliding_window = 0"),
    (STARCODER2, {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types = sliding_attention"),
    (STARCODER2, {"num_key_value_heads": 3}, "num_key_value_heads = 3"),
]


@pytest.mark.parametrize(("model", "changes", "told"), FOREIGN)
def test_what_megacode_does_not_compute_is_refused_by_name(
    model: dict[str, Any], changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    import re

    write_hub(tmp_path / "hub", **model)
    edit_config(tmp_path / "hub", **changes)
    assert re.search(told, refused(tmp_path / "hub"))


def test_all_of_it_is_told_at_once(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **STARCODER2)
    edit_config(tmp_path / "hub", norm_type="rms_norm", mlp_type="gated", use_bias=False, hidden_act="gelu")
    message = refused(tmp_path / "hub")
    assert "4 problems" in message and message.startswith(str(tmp_path / "hub" / "config.json"))


def test_the_misnamed_activation_is_taken_when_told_and_noted(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **BIGCODE)
    edit_config(tmp_path / "hub", activation_function="gelu")
    assert "must be gelu_pytorch_tanh" in refused(tmp_path / "hub", activation="relu")
    assert any(
        "'gelu' in config.json" in note for note in taken(tmp_path / "hub", activation="gelu_pytorch_tanh").notes
    )


def test_an_unknown_key_is_told(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **BIGCODE)
    edit_config(tmp_path / "hub", logit_softcap=30.0, other=None)
    assert next(note for note in taken(tmp_path / "hub").notes if "does not know" in note).endswith("logit_softcap")


@BOTH
@pytest.mark.parametrize("head", ["equal", "different"])
def test_the_head_decides_whether_it_is_tied(model: dict[str, Any], head: str, tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", **model)
    embedding = next(tensor for name, tensor in tensors.items() if name.endswith(("wte.weight", "tokens.weight")))
    tensors["lm_head.weight"] = embedding.clone()
    if head == "different":
        tensors["lm_head.weight"][-1, -1] += 1
    write_weights(tmp_path / "hub", tensors)
    report = taken(tmp_path / "hub")
    assert report.model.tied == (head == "equal")
    assert ("head.weight" in CheckpointReader(report.folder).manifest.tensors) == (head == "different")
    assert any("imported untied" in note for note in report.notes) == (head == "different")


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **STARCODER2)
    edit_config(tmp_path / "hub", tie_word_embeddings=False)
    message = refused(tmp_path / "hub")
    assert "lm_head.weight" in message and "tie_word_embeddings is false" in message


def test_missing_left_over_and_wrong_tensors_are_all_named(tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", **BIGCODE)
    del tensors["transformer.h.1.ln_2.bias"]
    tensors["transformer.h.2.ln_1.bias"] = torch.zeros(32)
    tensors["transformer.h.0.mlp.c_fc.weight"] = torch.zeros(32, 128)
    tensors["transformer.ln_f.weight"] = torch.zeros(32, dtype=torch.int8)
    write_weights(tmp_path / "hub", tensors)
    message = refused(tmp_path / "hub")
    assert "4 problems" in message
    for told in (
        *("missing", "transformer.h.1.ln_2.bias", "left over", "transformer.h.2.ln_1.bias"),
        *("transformer.h.0.mlp.c_fc.weight = (32, 128)", "(128, 32)", "transformer.ln_f.weight = I8"),
    ):
        assert told in message


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (BIGCODE, ["transformer.bias", "transformer.h.0.attn.masked_bias", "transformer.h.1.attn.bias"]),
        (STARCODER2, ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]),
    ],
)
def test_buffers_of_old_files_are_left_out(model: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", **model)
    write_weights(tmp_path / "hub", {**tensors, **{name: torch.ones(3, dtype=torch.bool) for name in names}})
    assert taken(tmp_path / "hub").model.layers == 2


def test_mixed_types_are_kept_exactly(tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", torch.bfloat16, **BIGCODE)
    exact = torch.full((32,), 1.0 + 2.0**-20)
    write_weights(tmp_path / "hub", {**tensors, "transformer.ln_f.bias": exact})
    report = taken(tmp_path / "hub")
    assert report.precision == "fp32" and any("several types" in note for note in report.notes)
    assert torch.equal(CheckpointReader(report.folder).tensor("master", "final_norm.bias"), exact)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", **BIGCODE)
    tensors["transformer.h.1.attn.c_attn.weight"][3, 4] = value
    write_weights(tmp_path / "hub", tensors)
    assert "layers.1.attention.query.weight holds nan or inf" in refused(tmp_path / "hub")


@BOTH
def test_no_value_of_any_key_makes_a_traceback(model: dict[str, Any], tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **model)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    outcomes = {"taken": 0, "refused": 0}
    for key in [*config, "rope_scaling", "layer_types", "quantization_config", "partial_rotary_factor"]:
        for value in (None, True, -1, 0, 10**30, 1e308, float("nan"), "x", [], ["x"], {}, {"rope_type": [1]}):
            edit_config(tmp_path / "hub", **{**config, key: value})
            try:
                taken(tmp_path / "hub")
                outcomes["taken"] += 1
            except CheckpointError as error:
                assert str(error).count("\n") < 30
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


def sharded(folder: Path) -> dict[str, Any]:
    """Split a folder's weights over two files; returns the index."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for file, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        write_weights(folder, {name: tensors[name] for name in part}, file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


@BOTH
def test_weights_in_several_files(model: dict[str, Any], tmp_path: Path) -> None:
    tensors = write_hub(tmp_path / "hub", **model)
    sharded(tmp_path / "hub")
    report = taken(tmp_path / "hub")
    name = next(name for name in tensors if name.endswith("c_fc.weight"))
    assert torch.equal(CheckpointReader(report.folder).tensor("master", "layers.0.mlp.up.weight"), tensors[name])


def test_a_broken_index_is_told(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **BIGCODE)
    index = sharded(tmp_path / "hub")
    path = tmp_path / "hub" / "model.safetensors.index.json"
    first, *_, last = index["weight_map"]
    moved = {**index["weight_map"], first: "b.safetensors"}
    del moved[last]
    for table, told in (
        ({"weight_map": moved}, f"{first} is not in b.safetensors, {last} of"),
        ({"weight_map": {**index["weight_map"], "x": "c.safetensors"}}, "1 of 3 files of the index are missing"),
        ({"weight_map": {**index["weight_map"], "x": "../c.safetensors"}}, "not in its folder: ../c.safetensors"),
        ({"metadata": {}}, "has no weight_map"),
        ([], "holds no table"),
    ):
        path.write_text(json.dumps(table))
        assert told in refused(tmp_path / "hub")


def test_damaged_and_foreign_folders_are_each_told(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    assert "is no folder" in refused(folder)
    write_hub(folder, **BIGCODE)
    whole = (folder / "model.safetensors").read_bytes()
    for content, told in (
        (whole[:-1], "cannot be read as safetensors"),
        (b"\xff" * 40, "cannot be read as safetensors"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        assert told in refused(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "is a pickle" in refused(folder) and "save_pretrained" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "neither model.safetensors nor" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(folder)
    (folder / "config.json").unlink()
    assert "is this a Hugging Face model?" in refused(folder)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **{**BIGCODE, "vocab": 320})
    words = train_bpe(["def main(): return 1\n" * 20], 300, "starcoder")
    words.save(tmp_path / "hub")
    report = taken(tmp_path / "hub")
    assert report.tokenizer == words.fingerprint == CheckpointReader(report.folder).manifest.state.tokenizer
    assert Tokenizer.load(report.folder / "tokenizer").fingerprint == words.fingerprint
    assert Completer.load(report.folder).complete("def", None, Sampling(2)) is not None
    shutil.rmtree(report.folder / "tokenizer")
    with pytest.raises(CheckpointError, match="name its folder by --tokenizer"):
        Completer.load(report.folder)
    assert Completer.load(report.folder, tmp_path / "hub").complete("def", "return", Sampling(2)) is not None
    edit_config(tmp_path / "hub", vocab_size=64)
    write_hub(tmp_path / "small", **BIGCODE)
    words.save(tmp_path / "small")
    assert "the model has 64" in refused_beside(tmp_path / "small")
    assert taken(tmp_path / "small", tokenizer=False).tokenizer == ""
    (tmp_path / "hub" / "tokenizer.json").write_text("{}")
    edit_config(tmp_path / "hub", vocab_size=320)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        taken(tmp_path / "hub")


def refused_beside(folder: Path) -> str:
    """The message of a refusal, with other imports lying about."""
    with pytest.raises(CheckpointError) as caught:
        taken(folder)
    return str(caught.value)


def test_only_an_import_is_replaced(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **BIGCODE)
    report = taken(tmp_path / "hub")
    assert taken(tmp_path / "hub").folder == report.folder
    (report.folder / "manifest.json").unlink()
    assert "nothing that may be replaced" in refused_beside(tmp_path / "hub")
    shutil.rmtree(report.folder)
    report.folder.write_text("a file")
    assert "nothing that may be replaced" in refused_beside(tmp_path / "hub")
