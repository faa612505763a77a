"""The examples that start from finished weights do so: a fine-tune of an imported model, and a longer context."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from disk_run import losses, rows, train_rank
from hub_files import write_hub

from megacode.checkpoint.folders import committed
from megacode.checkpoint.huggingface.export import export
from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
from megacode.checkpoint.read import CheckpointReader
from megacode.config import RunConfig, load_config
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.prove.ranks import run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"


def short(name: str, data: Path, **settings: object) -> RunConfig:
    """An example cut to three steps, on a test's data; `settings` go by section__key."""
    own = {
        "data__train": f"{data}/train",
        "data__validation": f"{data}/validation",
        "train__validate_sequences": 2,
        "train__steps": 3,
        "train__validate_every": 3,
        "optim__lr_warmup": 1,
        "data__tokenizer": str(data),
        "train__global_batch": 2,
        "train__log_every": 1,
        "checkpoint__every": 3,
        **settings,
    }
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in own.items()]
    return load_config(EXAMPLES / f"{name}.toml", overrides)


def train(config: RunConfig) -> Path:
    """Run it; returns the last checkpoint."""
    assert all(run_ranks(config.parallel.world_size, train_rank, config))
    return committed(Path(config.checkpoint.folder))[-1]


def test_a_fine_tune_starts_from_an_imported_base(data: Path, tmp_path: Path) -> None:
    model = load_config(EXAMPLES / "tiny_finetune.toml").model
    write_hub(tmp_path / "hub", torch.bfloat16, **{**model.model_dump(), "init_std": 0.02})
    Tokenizer.load(data).save(tmp_path / "hub")
    base = import_model(tmp_path / "hub", tmp_path / "base", ImportOptions(compare=False))
    config = short(
        "tiny_finetune",
        data,
        data__tokenizer=str(base.folder / "tokenizer"),
        checkpoint__init_from=str(base.folder),
        checkpoint__folder=str(tmp_path / "run"),
    )
    last = train(config)
    assert rows(tmp_path / "run", "start")[0]["step"] == 0 and len(losses(tmp_path / "run")) == 3
    assert losses(tmp_path / "run")[0] > 20, "it began with the base's random weights, not with new ones"
    reader = CheckpointReader(last)
    assert reader.manifest.kinds == ("master", "exp_avg", "exp_avg_sq"), "Adam's state is its own"
    start = CheckpointReader(base.folder).tensor("master", "layers.0.mlp.up.weight")
    moved = (reader.tensor("master", "layers.0.mlp.up.weight") - start).abs().max()
    assert 0 < moved < 3 * 1.1 * config.optim.lr * (1 + config.optim.weight_decay * start.abs().max())
    assert export(last, tmp_path / "model", compare=False).tokenizer == base.tokenizer


def first_stage() -> dict[str, object]:
    """The settings that the head of tiny_long_context.toml gives for its first stage."""
    text = (EXAMPLES / "tiny_long_context.toml").read_text().replace("\\\n#", "")
    line = next(line for line in text.splitlines() if "launch/torchrun.sh" in line)
    words = [word.partition("=") for word in shlex.split(line.strip("# "))[3:]]
    return {key.replace(".", "__"): _value(value) for key, _, value in words}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.slow
def test_a_longer_context_starts_from_its_first_stage(data: Path, tmp_path: Path) -> None:
    told = first_stage()
    assert told["model__rope_theta"] == 1e5 and told["checkpoint__init_from"] == ""
    own = {"checkpoint__folder": str(tmp_path / "short"), "train__global_batch": 4}
    before = train(short("tiny_long_context", data, **{**told, **own}))
    config = short(
        "tiny_long_context",
        data,
        checkpoint__init_from=str(before),
        checkpoint__folder=str(tmp_path / "long"),
    )
    assert (config.model.window, config.data.sequence, config.model.rope_theta) == (256, 1024, 1e6)
    after = train(config)
    assert rows(tmp_path / "long", "start")[0]["step"] == 0
    assert losses(tmp_path / "long")[0] < losses(tmp_path / "short")[0] - 0.3, "what was learned is not lost"
    told_by_hub = export(after, tmp_path / "model", compare=False)
    table = json.loads((told_by_hub.folder / "config.json").read_text())
    assert (table["sliding_window"], table["max_position_embeddings"], table["rope_theta"]) == (256, 1024, 1e6)
