"""What a run may start from: everything that does not fit is named at once, and StarCoder2's second stage fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_files import BIGCODE, STARCODER2, write_hub
from tiny import tiny_config

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
from megacode.checkpoint.initial import check_initial
from megacode.checkpoint.manifest import Manifest, RunState
from megacode.config import RunConfig, load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


def manifest_of(config: RunConfig, tokenizer: str = "words") -> Manifest:
    """What a run of `config` says in its checkpoints, but for the tensors."""
    return Manifest(RunState(1, 1, config.model_dump(mode="json"), tokenizer), ("master",), {}, {})


def of(**model: Any) -> RunConfig:
    return tiny_config(model=model, data={"sequence": 24})


def test_what_may_change_between_stages() -> None:
    long = {"rope_theta": 1e6, "window": 8, "context": 96, "init_std": 0.5, "hidden_dropout": 0.1}
    check_initial(manifest_of(of(**STARCODER2)), of(**{**STARCODER2, **long}), "words")
    dropout = {"attention_dropout": 0.1, "hidden_dropout": 0.1, "embedding_dropout": 0.1}
    check_initial(manifest_of(of(**BIGCODE)), of(**{**BIGCODE, **dropout}), "words")


def test_everything_else_is_named_at_once() -> None:
    other = {**STARCODER2, "layers": 4, "hidden": 64, "kv_heads": 1, "ffn": 100, "tied": False, "norm_eps": 1e-6}
    with pytest.raises(CheckpointError) as caught:
        check_initial(manifest_of(of(**STARCODER2)), of(**other), "other words")
    for told in (
        *("model.layers is 2 there, 4 here", "model.hidden is 32 there", "model.kv_heads", "model.ffn", "model.tied"),
        *("model.norm_eps", "its tokenizer is words, that of data.tokenizer other words"),
    ):
        assert told in str(caught.value)


@pytest.mark.parametrize("context", [48, 24])
def test_learned_positions_are_not_extended(context: int) -> None:
    base = of(**{**BIGCODE, "context": 32})
    with pytest.raises(CheckpointError, match="learned positions are weights, and there are 32 of them"):
        check_initial(manifest_of(base), of(**{**BIGCODE, "context": context}), "words")


def test_positions_of_the_other_family_do_not_fit() -> None:
    with pytest.raises(CheckpointError, match=r"model\.positions is 'learned' there, 'rotary' here"):
        check_initial(manifest_of(of(**BIGCODE)), of(**STARCODER2), "words")


def test_an_import_without_a_tokenizer_fits_any(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", **STARCODER2)
    import_model(tmp_path / "hub", tmp_path / "base", ImportOptions(compare=False))
    manifest = Manifest.read(tmp_path / "base")
    check_initial(manifest, of(**STARCODER2), "any")
    with pytest.raises(CheckpointError, match="its tokenizer is some"):
        check_initial(replace(manifest, state=replace(manifest.state, tokenizer="some")), of(**STARCODER2), "any")


@pytest.mark.parametrize(
    ("base", "run"),
    [
        ("starcoder_15b", "starcoder_python"),
        ("starcoder2_3b", "starcoder2_3b_16k"),
        ("tiny_cpu", "tiny_finetune"),
    ],
)
def test_the_examples_fit_their_bases(base: str, run: str) -> None:
    tuned = load_config(EXAMPLES / f"{run}.toml")
    check_initial(manifest_of(load_config(EXAMPLES / f"{base}.toml")), tuned, "words")
    assert tuned.checkpoint.init_from
