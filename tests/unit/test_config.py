"""A configuration's mistakes are all told at once, each with its remedy, and without torch."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from megacode.config import ConfigError, RunConfig, load_config
from megacode.config.load import parse_config

GOOD: dict[str, dict[str, Any]] = {
    "model": {"layers": 8, "hidden": 6144, "heads": 48},
    "parallel": {"tp": 2, "pp": 2, "dp": 2},
    "data": {"train": "shards/train", "tokenizer": "tokenizer", "sequence": 8192},
    "optim": {"lr": 3e-4},
    "train": {"steps": 10, "global_batch": 8},
}


def _with(**changes: Any) -> dict[str, Any]:
    """The good table with `section__key=value` changes; a value of None removes the key."""
    table: dict[str, Any] = deepcopy(GOOD)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if not key:
            table[section] = value
        elif value is None:
            del table[section][key]
        else:
            table.setdefault(section, {})[key] = value
    return table


def _problems(**changes: Any) -> dict[str, str]:
    """Field to rule and hint of every problem of the changed table."""
    with pytest.raises(ConfigError) as caught:
        parse_config(_with(**changes), "run.toml")
    return {problem.field: f"{problem.rule}; {problem.hint}" for problem in caught.value.problems}


def _write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_good_table_and_what_is_derived() -> None:
    config = parse_config(_with(), "run.toml")
    assert isinstance(config, RunConfig)
    assert (config.model.ffn, config.model.head_width, config.model.kv_heads) == (24576, 128, 1)
    assert config.model.init_std == pytest.approx(0.01275, abs=1e-5)
    assert (config.parallel.world_size, config.micro_batches, config.tokens_per_step) == (8, 4, 65536)
    assert parse_config(_with(model__ffn=512), "run.toml").model.ffn == 512


def test_all_problems_at_once_as_a_person_reads_them() -> None:
    changes = {"parallel__tp": 5, "parallel__dp": 32, "train__global_batch": 500, "optim__lr_warmpu": 3}
    with pytest.raises(ConfigError) as caught:
        parse_config(_with(**changes), "run.toml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "run.toml: 3 problems (world size 320)"
    told = "\n".join(lines[1:])
    assert "parallel.tp = 5 " in told
    assert "must divide model.heads = 48; try 1, 2, 3, 4, 6, 8" in told
    assert "must be a multiple of micro_batch 1 x dp 32; nearest 480, 512" in told
    assert "unknown key; did you mean optim.lr_warmup?" in told


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim__beta_1", "optim.beta1"),
        ("model__kvheads", "model.kv_heads"),
        ("modle", "model"),
        ("train__microbatch", "train.micro_batch"),
    ],
)
def test_did_you_mean(key: str, meant: str) -> None:
    assert _problems(**{key: 1})[key.replace("__", ".")] == f"unknown key; did you mean {meant}?"


def test_a_key_like_no_other_gets_no_guess() -> None:
    assert "did you mean" not in _problems(optim__zzzzqqqqxxxx=1)["optim.zzzzqqqqxxxx"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model__heads": 10}, "model.heads"),
        ({"model__kv_heads": 5}, "model.kv_heads"),
        ({"model__kv_heads": 3}, "model.kv_heads"),
        ({"model__vocab": 49153}, "parallel.tp"),
        ({"model__ffn": 4097}, "parallel.tp"),
        ({"data__sequence": 8191}, "parallel.tp"),
        ({"parallel__pp": 9}, "parallel.pp"),
        ({"parallel__schedule": "interleaved", "parallel__pp": 5}, "parallel.pp"),
        ({"parallel__schedule": "interleaved", "parallel__chunks": 1}, "parallel.chunks"),
        ({"parallel__schedule": "interleaved", "parallel__pp": 1}, "parallel.schedule"),
        ({"parallel__schedule": "zb-h1", "parallel__pp": 1}, "parallel.schedule"),
        ({"parallel__schedule": "zb-v", "parallel__pp": 1}, "parallel.schedule"),
        ({"parallel__schedule": "zb-v", "parallel__chunks": 3}, "parallel.chunks"),
        ({"parallel__schedule": "zb-h1", "parallel__chunks": 2}, "parallel.chunks"),
        ({"parallel__chunks": 2}, "parallel.chunks"),
        ({"parallel__schedule": "1f2b"}, "parallel.schedule"),
        ({"parallel__stage_layers": [1, 1]}, "parallel.stage_layers"),
        ({"parallel__stage_layers": [2, 3, 3]}, "parallel.stage_layers"),
        ({"data__sequence": 16384}, "data.sequence"),
        ({"optim__lr_min": 1.0}, "optim.lr_min"),
        ({"optim__lr_warmup": 10}, "optim.lr_warmup"),
        ({"optim__lr_schedule": "constant", "optim__lr_decay": 5}, "optim.lr_decay"),
        ({"optim__lr_schedule": "inverse_square_root", "optim__lr_decay": 5}, "optim.lr_decay"),
        ({"optim__lr_power": 2.0}, "optim.lr_power"),
        ({"optim__lr_schedule": "polynomial", "optim__lr_power": 0.0}, "optim.lr_power"),
        ({"train__validate_every": 5}, "train.validate_every"),
        ({"data__validation": "v", "train__validate_sequences": 33}, "train.validate_sequences"),
        ({"model__hidden": 24576}, "model.hidden"),
        ({"train__precision": "fp8"}, "train.precision"),
        ({"optim__zero_stage": 2}, "optim.zero_stage"),
        ({"optim__zero_stage": 0, "parallel__dp": 1}, "optim.zero_stage"),
        ({"optim__bucket_megabytes": 1.0, "parallel__dp": 1}, "optim.bucket_megabytes"),
        ({"optim__reduce_dtype": "weights", "parallel__dp": 1}, "optim.reduce_dtype"),
        ({"optim__reduce_dtype": "weights", "train__precision": "fp32"}, "optim.reduce_dtype"),
        ({"optim__loss_scale": {"initial": 2.0}}, "optim.loss_scale.initial"),
        ({"optim__loss_scale": {"minimum": 2e6}, "train__precision": "fp16"}, "optim.loss_scale.minimum"),
        ({"model__hidden_dropout": 1.0}, "model.hidden_dropout"),
        ({"optim__lr": float("inf")}, "optim.lr"),
        ({"optim__lr": "3e-4"}, "optim.lr"),
        ({"data__fim": {"rate": 2.0}}, "data.fim.rate"),
        ({"model__positions": "alibi"}, "model.positions"),
        ({"model__rope_theta": 1e4}, "model.rope_theta"),
        ({"model__positions": "rotary", "model__heads": 2048}, "model.heads"),
        ({"train__recompute": "some"}, "train.recompute"),
        ({"train__recompute_blocks": 1}, "train.recompute_blocks"),
        ({"train__recompute": "full", "train__recompute_blocks": 0}, "train.recompute_blocks"),
        ({"train__recompute": "selective", "train__recompute_blocks": 9}, "train.recompute_blocks"),
        ({"model__window": 0}, "model.window"),
        ({"kernels__implementation": "cutlass"}, "kernels.implementation"),
        ({"kernels__layer_norm": "apex", "launch": {"device": "cpu"}}, "kernels.layer_norm"),
        ({"kernels__optimizer": "apex", "launch": {"device": "cpu"}}, "kernels.optimizer"),
        ({"kernels__tune_cache": "tiles", "kernels__implementation": "torch"}, "kernels.tune_cache"),
        ({"kernels__tune_cache": "tiles", "launch": {"device": "cpu"}}, "kernels.tune_cache"),
    ],
)
def test_each_rule_finds_its_mistake_and_only_that(changes: dict[str, Any], field: str) -> None:
    assert set(_problems(**changes)) == {field}


@pytest.mark.parametrize(
    "changes",
    [
        {"model__positions": "rotary", "data__sequence": 16384},
        {"model__positions": "rotary", "model__rope_theta": 1e4, "model__tied": False},
        {"model__window": 4096},
        {"model__window": 4096, "launch": {"device": "cpu"}},
        {"model__window": 100_000},
        {"data__document_mask": True},
        {"data__document_mask": True, "launch": {"device": "cpu"}},
        {"kernels": {"layer_norm": "apex", "optimizer": "apex", "tune_cache": "tiles"}},
        {"train__recompute": "selective", "train__recompute_blocks": 1},
    ],
)
def test_options_where_they_can_run(changes: dict[str, Any]) -> None:
    """Rotary positions have no end; windows and document masks run on every kernel."""
    config = parse_config(_with(**changes), "run.toml")
    assert parse_config(config.model_dump(), "a checkpoint's") == config


@pytest.mark.parametrize(
    ("changes", "chunks"),
    [
        ({"parallel__schedule": "interleaved"}, 2),
        ({"parallel__schedule": "interleaved", "parallel__chunks": 4, "train__global_batch": 10}, 4),
        ({"parallel__schedule": "zb-v"}, 2),
        ({"parallel__schedule": "zb-h1", "parallel__stage_layers": [5, 3]}, 1),
        ({"parallel__schedule": "zb-v", "parallel__stage_layers": [3, 2, 2, 1]}, 2),
        ({"parallel__schedule": "gpipe", "parallel__pp": 1}, 1),
    ],
)
def test_schedules_and_their_chunks(changes: dict[str, Any], chunks: int) -> None:
    """Chunks follow the schedule unless given, and a saved configuration, which writes them, is accepted again."""
    config = parse_config(_with(**changes), "run.toml")
    assert config.parallel.chunks == chunks
    assert parse_config(config.model_dump(mode="json"), "a checkpoint's") == config


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__zero_stage": 0, "optim__reduce_dtype": "weights", "optim__bucket_megabytes": 0.5},
        {"train__precision": "fp16", "optim__loss_scale": {"initial": 1024.0, "growth_steps": 10, "minimum": 8.0}},
        {"parallel__dp": 1, "train__precision": "fp16"},
    ],
)
def test_the_optimizers_options_where_they_have_an_effect(changes: dict[str, Any]) -> None:
    config = parse_config(_with(**changes), "run.toml")
    assert parse_config(config.model_dump(), "a checkpoint's") == config


def test_a_saved_starcoder_configuration_is_accepted_again() -> None:
    """It writes every field, those without effect too."""
    config = parse_config(_with(), "run.toml")
    assert parse_config(config.model_dump(), "a checkpoint's") == config


@pytest.mark.parametrize("hidden", [None, "6144", 6144.0, True, 0])
def test_a_broken_hidden_is_one_mistake_and_leaves_the_derived_fields_alone(hidden: Any) -> None:
    assert set(_problems(model__hidden=hidden)) == {"model.hidden"}


def test_rules_are_silent_where_a_field_they_read_is_broken() -> None:
    assert set(_problems(data__validation=3, train__validate_every=5)) == {"data.validation"}
    assert set(_problems(optim__lr_schedule="cosin", optim__lr_warmup=500)) == {"optim.lr_schedule"}


def test_stand_ins_let_every_other_rule_run() -> None:
    problems = _problems(model=None, parallel__dp=3, optim__lr=None, train__steps=None, data__fim=0.5)
    assert set(problems) == {"model", "optim.lr", "train.steps", "data.fim", "train.global_batch"}


def test_an_empty_table_names_every_section_it_needs() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({}, "run.toml")
    assert [problem.field for problem in caught.value.problems] == ["model", "data", "optim", "train"]


MINIMAL = """
[model]
layers = 4
hidden = 256
heads = 8
[data]
train = "t"
tokenizer = "k"
sequence = 256
[optim]
lr = 2e-3
[train]
steps = 200
global_batch = 32
"""


def test_overrides_are_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = _write(tmp_path, MINIMAL)
    overrides = ["parallel.tp=2", "optim.lr=1e-3", "checkpoint.folder=runs/here", "data.fim.rate=0.0", "train.seed=7"]
    config = load_config(path, overrides)
    assert (config.parallel.tp, config.optim.lr, config.checkpoint.folder) == (2, 1e-3, "runs/here")
    assert (config.data.fim.rate, config.train.seed) == (0.0, 7)


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    overrides = ["parallel.tp", "optim.lr.x=1", "train.stepps=3", "parallel.dp=5"]
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, MINIMAL), overrides)
    told = str(caught.value)
    assert "must be section.key=value" in told
    assert "optim.lr.x=1" in told
    assert "did you mean train.steps?" in told
    assert "nearest 30, 35" in told


def test_a_file_that_is_missing_or_no_toml_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not readable TOML"):
        load_config(_write(tmp_path, "model = [unclosed"))
    with pytest.raises(ConfigError, match="is not readable TOML"):
        load_config(tmp_path)


def test_configurations_are_frozen() -> None:
    config = parse_config(_with(), "run.toml")
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 11  # type: ignore[misc]


@pytest.mark.parametrize("room", ["config", "layout", "plan", "metrics", "console", "metrics.report"])
def test_no_torch_is_imported(room: str) -> None:
    code = f"import sys, megacode.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("overrides", [("optim.lr_schedule=constant",), ("train.recompute=full", "model.kv_heads=2")])
def test_what_a_checkpoint_keeps_is_accepted_again(overrides: tuple[str, ...]) -> None:
    """A dump writes every field; none of them may count as an option without effect."""
    run = Path(__file__).parents[2] / "examples" / "tiny_cpu.toml"
    lr_min = ("optim.lr_min=0.0",) if "constant" in overrides[0] else ()
    config = load_config(run, [*overrides, *lr_min])
    assert parse_config(config.model_dump(mode="json"), "dump") == config


SOURCES = [{"name": "python", "shards": "code/python-*", "weight": 2.0}, {"name": "java", "shards": "j", "weight": 1.0}]


def test_a_blend_and_what_it_is_short_for() -> None:
    config = parse_config(_with(data__train=None, data__sources=SOURCES), "run.toml")
    assert [source.name for source in config.data.blended] == ["python", "java"] and not config.data.has_validation
    (alone,) = parse_config(_with(data__validation="v"), "run.toml").data.blended
    assert (alone.shards, alone.validation, alone.weight) == ("shards/train", "v", None)


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"data__train": None}, "data.train", "is missing; name the training shard, or several sources"),
        ({"data__sources": SOURCES}, "data.train", "has no effect beside data.sources"),
        ({"data__train": None, "data__sources": SOURCES, "data__validation": "v"}, "data.validation", "no effect"),
        ({"data__train": None, "data__sources": SOURCES[:1] * 2}, "data.sources", "must have different names"),
        (
            {"data__train": None, "data__sources": [SOURCES[0], {"name": "java", "shards": "j"}]},
            "data.sources",
            "has weights for python only; give each a weight, or none",
        ),
        ({"data__mix": [{"from_tokens": 9999, "weights": {"a": 1.0}}]}, "data.mix", "without several data.sources"),
        (
            {
                "data__train": None,
                "data__sources": SOURCES,
                "data__mix": [{"from_tokens": 9999, "weights": {"python": 1.0}}],
            },
            "data.mix.0.weights",
            "must name every source: java, python; 0 leaves one out",
        ),
        (
            {
                "data__train": None,
                "data__sources": SOURCES,
                "data__mix": [{"from_tokens": 9999, "weights": {"python": 0.0, "java": 0.0}}],
            },
            "data.mix.0.weights",
            "must not all be 0",
        ),
        (
            {
                "data__train": None,
                "data__sources": SOURCES,
                "data__mix": [{"from_tokens": tokens, "weights": {"python": 0.0, "java": 1.0}} for tokens in (9999, 5)],
            },
            "data.mix",
            "must be at least a sample after 9999",
        ),
        ({"data__fim": {"rate": 0.0, "cut": "syntax"}}, "data.fim.cut", "has no effect with data.fim.rate = 0"),
        ({"data__fim": {"spm_rate": 0.0, "spm": "v1"}}, "data.fim.spm", "has no effect with data.fim.spm_rate = 0"),
        ({"data__fim": {"repository_rate": 1.5}}, "data.fim.repository_rate", "less than or equal to 1"),
    ],
)
def test_mistakes_in_the_data_section(changes: dict[str, Any], field: str, told: str) -> None:
    problems = _problems(**changes)
    assert set(problems) == {field} and told in problems[field]
