"""Every example is parsed, checked and counted, and says what it was taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacode.config import RunConfig, load_config
from megacode.plan import summarize

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.toml"))
COUNTED = {  # ranks, parameters, micro-batches, tokens in all
    "tiny_cpu.toml": (8, 3_878_912, 16, 1_228_800),
    "tiny_finetune.toml": (4, 3_878_912, 16, 122_880),
    "tiny_long_context.toml": (4, 3_944_960, 4, 122_880),
    "bench_cpu.toml": (1, 15_228_416, 16, 8_192_000),
    "starcoder_15b.toml": (512, 15_517_456_384, 16, 1_048_576_000_000),
    "starcoder2_3b.toml": (160, 3_030_371_328, 4, 3_145_728_000_000),
    "starcoder2_3b_16k.toml": (160, 3_030_371_328, 1, 209_715_200_000),
    "starcoder_python.toml": (512, 15_517_456_384, 16, 35_651_584_000),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_right_and_costs_what_it_says(path: Path) -> None:
    summary = summarize(load_config(path))
    counted = (summary.world_size, summary.parameters, summary.micro_batches, summary.total_tokens)
    assert counted == COUNTED[path.name]


def test_every_example_is_counted_here_and_explained_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert {path.name for path in FILES} == set(COUNTED)
    for name, (_, parameters, _, _) in COUNTED.items():
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
        assert f"{parameters:,}" in line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_in_an_example_repeats_a_mistake_of_the_summaries(path: Path) -> None:
    config = load_config(path)
    assert (config.optim.beta1, config.optim.beta2, config.optim.eps) == (0.9, 0.95, 1e-8)
    assert config.optim.lr_min == pytest.approx(config.optim.lr / 10)
    assert (config.data.fim.rate, config.data.fim.spm_rate) == (0.5, 0.5)
    assert (config.train.precision, config.parallel.order) == ("bf16", "tp-dp-pp")


def test_the_fine_tune_changes_the_learning_rate_and_not_the_model() -> None:
    base, python = (load_config(EXAMPLES / f"starcoder_{name}.toml") for name in ("15b", "python"))
    assert (python.model, python.parallel) == (base.model, base.parallel)
    assert _rate(base) == (3e-4, 3e-5, 2000, 250_000, 250_000)
    assert _rate(python) == (5e-5, 5e-6, 1000, 8500, 8500)
    assert python.checkpoint.init_from and not base.checkpoint.init_from
    assert python.checkpoint.folder != base.checkpoint.folder


def test_starcoder2_is_the_base_stage() -> None:
    config = load_config(EXAMPLES / "starcoder2_3b.toml")
    model = config.model
    assert (model.positions, model.rope_theta, model.window, model.tied) == ("rotary", 1e5, None, True)
    assert (model.init_std, model.kv_heads, config.data.sequence) == (0.018042, 2, 4096)
    assert (model.attention_dropout, model.hidden_dropout, model.embedding_dropout) == (0.0, 0.0, 0.0)
    assert _rate(config) == (3e-4, 3e-5, 1000, 1_200_000, 1_200_000)


@pytest.mark.parametrize(("base", "long"), [("starcoder2_3b", "starcoder2_3b_16k")])
def test_the_longer_context_changes_what_its_sources_name_and_nothing_else(base: str, long: str) -> None:
    first, second = (load_config(EXAMPLES / f"{name}.toml") for name in (base, long))
    changed = {"context": 16384, "window": 4096, "rope_theta": 999999.4420358813}
    assert second.model == first.model.model_copy(update=changed)
    assert second.data.sequence == 16384 and second.tokens_per_step == first.tokens_per_step
    assert _rate(second) == (3e-5, 3e-6, 1000, 80_000, 80_000)
    assert second.checkpoint.init_from == f"{first.checkpoint.folder}/step-{first.train.steps:08d}"


def _rate(config: RunConfig) -> tuple[float, float, int, int | None, int]:
    optim = config.optim
    return optim.lr, optim.lr_min, optim.lr_warmup, optim.lr_decay, config.train.steps


def test_the_laptop_example_is_cut_along_every_axis() -> None:
    config = load_config(EXAMPLES / "tiny_cpu.toml")
    assert (config.parallel.tp, config.parallel.pp, config.parallel.dp) == (2, 2, 2)
    assert (config.launch.device, config.launch.backend, config.launch.threads) == ("cpu", "gloo", 1)
