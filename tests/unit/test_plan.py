"""Counts against published numbers: StarCoder's parameters and FLOPs, Megatron's bytes, the pipeline's bubble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacode.config import RunConfig, load_config
from megacode.config.schema import ModelConfig, ParallelConfig
from megacode.plan import (
    Attention,
    activation_bytes_on_rank,
    block_bytes,
    count_on_rank,
    count_parameters,
    flops_per_token,
    fullest_rank,
    model_flops_utilization,
    render_summary,
    state_bytes,
    state_bytes_on_rank,
    summarize,
    tflops_per_rank,
)
from megacode.plan.schedule_table import render_schedule_table
from megacode.plan.stages import head_cost, layers_of

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def starcoder() -> RunConfig:
    return load_config(EXAMPLES / "starcoder_15b.toml")


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "parameters"),
    [
        (40, 6144, 48, 15_517_456_384),
        (42, 4096, 32, 7_327_263_232),
        (36, 2816, 22, 3_043_311_104),
        (24, 2048, 16, 1_137_207_296),
        (20, 768, 12, 164_144_128),
    ],
)
def test_the_starcoder_family_to_the_last_parameter(layers: int, hidden: int, heads: int, parameters: int) -> None:
    assert count_parameters(ModelConfig(layers=layers, hidden=hidden, heads=heads)).total == parameters


STARCODER2 = {  # layers, hidden, heads, KV heads, tied; parameters
    "3B": (30, 3072, 24, 2, True, 3_030_371_328),
    "7B": (32, 4608, 36, 4, True, 7_173_923_840),
    "15B": (40, 6144, 48, 4, False, 15_957_889_024),
}


def _starcoder2(size: str) -> ModelConfig:
    layers, hidden, heads, kv_heads, tied, _ = STARCODER2[size]
    return ModelConfig(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, tied=tied, positions="rotary")


@pytest.mark.parametrize("size", STARCODER2)
def test_the_starcoder2_family_to_the_last_parameter(size: str) -> None:
    count = count_parameters(_starcoder2(size))
    assert count.total == STARCODER2[size][-1]
    assert (count.position_embedding, count.head_copy) == (0, 0)


def test_a_head_of_its_own_is_no_copy() -> None:
    """Both ends hold a [v, h] matrix either way; only what it is called, and whether the model counts it, differs."""
    untied, parallel = _starcoder2("15B"), ParallelConfig(tp=4, pp=4)
    tied, matrix = untied.model_copy(update={"tied": True}), 49152 * 6144
    ends = [count_on_rank(model, parallel, 3) for model in (untied, tied)]
    assert [(end.head, end.head_copy) for end in ends] == [(matrix // 4, 0), (0, matrix // 4)]
    assert count_on_rank(untied, parallel, 0) == count_on_rank(tied, parallel, 0)
    assert count_parameters(untied).total - count_parameters(tied).total == matrix


def test_the_parts_of_gpt2_with_full_attention_heads() -> None:
    """GPT-2 small has the same blocks with as many KV heads as heads, 124,439,808 parameters (Radford et al. 2019)."""
    count = count_parameters(ModelConfig(layers=12, hidden=768, heads=12, kv_heads=12, vocab=50257, context=1024))
    assert count.total == 124_439_808
    assert (count.token_embedding, count.position_embedding, count.head_copy) == (50257 * 768, 1024 * 768, 0)


def test_starcoders_ranks_stage_by_stage(starcoder: RunConfig) -> None:
    """1,085.7 / 959.9 / 959.9 / 1,035.4 million: positions on the first stage only, the tied embedding on both ends."""
    counts = [count_on_rank(starcoder.model, starcoder.parallel, stage).total for stage in range(4)]
    assert [round(count / 1e6, 1) for count in counts] == [1085.7, 959.9, 959.9, 1035.4]
    assert fullest_rank(starcoder.model, starcoder.parallel).total == counts[0]


@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.integers(1, 5),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    ffn=st.sampled_from([64, 96, 256]),
)
def test_ranks_add_up_to_the_model_and_its_copies(tp: int, pp: int, kv_heads: int, ffn: int) -> None:
    model = ModelConfig(layers=5, hidden=64, heads=8, kv_heads=kv_heads, ffn=ffn, vocab=128, context=32)
    parallel = ParallelConfig(tp=tp, pp=pp)
    held = tp * sum(count_on_rank(model, parallel, stage).total for stage in range(pp))
    copied_bias_and_norm = 5 * (2 * 64 + 4 * 64) + 2 * 64 + 32 * 64
    copied_keys = 0 if kv_heads % tp == 0 else 5 * (tp - 1) * kv_heads * 2 * 8 * 65
    second_embedding = 128 * 64 if pp > 1 else 0
    copies = (tp - 1) * copied_bias_and_norm + copied_keys + second_embedding
    assert held == count_parameters(model).total + copies


def test_what_cannot_be_cut_is_refused() -> None:
    model = ModelConfig(layers=4, hidden=64, heads=8, vocab=128)
    with pytest.raises(ValueError, match="stage 2 is outside"):
        count_on_rank(model, ParallelConfig(pp=2), stage=2)
    with pytest.raises(ValueError, match=r"model\.heads = 8 cannot be cut into 3"):
        count_on_rank(model, ParallelConfig(tp=3), stage=0)


@pytest.mark.parametrize(
    ("attention", "gflop"), [(Attention.NONE, 92.79), (Attention.CAUSAL, 104.87), (Attention.FULL, 116.95)]
)
def test_starcoders_flops_by_convention(starcoder: RunConfig, attention: Attention, gflop: float) -> None:
    assert flops_per_token(starcoder.model, 8192, attention) / 1e9 == pytest.approx(gflop, abs=0.005)


def test_flops_under_a_window_by_counting_keys() -> None:
    model = _starcoder2("3B")
    sequence, window = 16384, 4096
    whole = flops_per_token(model, sequence)
    keys = sum(min(query + 0.5, window) for query in range(sequence)) / sequence  # half of its own, as s / 2 counts
    assert whole - flops_per_token(model.model_copy(update={"window": window}), sequence) == pytest.approx(
        12 * 30 * 3072 * (sequence / 2 - keys), rel=1e-3
    )
    for hides_nothing in (sequence, 10 * sequence):
        assert flops_per_token(model.model_copy(update={"window": hides_nothing}), sequence) == whole


def test_gpt3_reaches_megatrons_published_step() -> None:
    """175B on 1,024 A100, 32 s a step of 1,536 x 2,048 tokens, 138 TFLOP/s and 44 % (Megatron-LM's README, 2021).

    That number counts hardware FLOPs with full attention: a recomputed forward pass makes it 4/3 of ours.
    """
    model = ModelConfig(layers=96, hidden=12288, heads=96, kv_heads=96, vocab=51200, context=2048)
    per_token = flops_per_token(model, 2048, Attention.FULL) * 4 / 3
    tflops = tflops_per_rank(1536 * 2048 / 32, 1024, per_token)
    assert tflops == pytest.approx(138, rel=0.015)
    assert model_flops_utilization(1536 * 2048 / 32, 1024, per_token, 312.0) == pytest.approx(0.44, abs=0.01)


@pytest.mark.parametrize(
    ("attention", "share"), [(Attention.NONE, 0.2705), (Attention.CAUSAL, 0.3057), (Attention.FULL, 0.3409)]
)
def test_starcoders_utilization(starcoder: RunConfig, attention: Attention, share: float) -> None:
    """320,256 GPU-hours for 250,000 steps on 512 GPUs, 9.007 s a step: 27, 31 and 34 %."""
    seconds = 320_256 * 3600 / 512 / 250_000
    speed = starcoder.tokens_per_step / seconds
    utilization = model_flops_utilization(speed, 512, flops_per_token(starcoder.model, 8192, attention), 312.0)
    assert utilization == pytest.approx(share, abs=1e-4)


def test_no_utilization_without_a_peak() -> None:
    assert model_flops_utilization(1e6, 8, 1e9, 0.0) is None


def test_starcoders_bytes_on_a_rank(starcoder: RunConfig) -> None:
    """6 + 12 / 32 bytes a parameter: 6.92, 6.12, 6.12 and 6.60 GB."""
    totals = [state_bytes_on_rank(starcoder, stage).total / 1e9 for stage in range(4)]
    assert totals == pytest.approx([6.92, 6.12, 6.12, 6.60], abs=0.005)


def test_starcoders_activations_on_a_rank(starcoder: RunConfig) -> None:
    """By hand: bf16, 8,192 tokens, h 6,144, f 24,576, one KV head of 128, dropout, TP 4; 4 to 1 micro-batches live."""
    config = starcoder.model_copy(update={"train": starcoder.train.model_copy(update={"recompute": "none"})})
    block = block_bytes(config, "none")
    assert block == 8192 * (2 * (6 * 6144 // 4 + 256 + 2 * 6144) + 2 * 6144 // 4 + 2 * 2 * 4 // 4 + 4 * 48 // 4)
    assert block_bytes(config, "none") - block_bytes(config, "selective") == 8192 * 2 * (2 * 6144 // 4 + 6144)
    assert block_bytes(config, "full") == 8192 * 2 * 6144 // 4
    assert [activation_bytes_on_rank(config, stage) for stage in range(4)] == [10 * n * block for n in (4, 3, 2, 1)]


def test_activations_of_some_recomputed_blocks(starcoder: RunConfig) -> None:
    """Three of ten blocks a stage; one of them is whole while it runs again. GPipe keeps all sixteen micro-batches."""
    train = starcoder.train.model_copy(update={"recompute": "full", "recompute_blocks": 3})
    config = starcoder.model_copy(update={"train": train})
    block, kept = block_bytes(config, "none"), block_bytes(config, "full")
    assert activation_bytes_on_rank(config, 0) == 4 * (7 * block + 3 * kept) + block
    gpipe = config.parallel.model_copy(update={"schedule": "gpipe"})
    config = config.model_copy(update={"parallel": gpipe})
    assert activation_bytes_on_rank(config, 3) == 16 * (7 * block + 3 * kept) + block
    with pytest.raises(ValueError, match="stage 4 is outside"):
        activation_bytes_on_rank(config, 4)


def test_bytes_a_parameter() -> None:
    whole = state_bytes(1000, "bf16", dp=1)
    assert (whole.weights, whole.gradients, whole.optimizer, whole.total) == (2000, 4000, 12000, 18000)
    assert state_bytes(1000, "bf16", dp=4).optimizer == 3000
    assert state_bytes(1001, "bf16", dp=4).optimizer == 12 * 251
    assert state_bytes(1000, "fp32", dp=4).total == 4000 + 4000 + 3000
    assert state_bytes(1000, "fp32", dp=1).optimizer == state_bytes(1000, "fp32", dp=4, zero_stage=0).optimizer == 8000
    assert state_bytes(1000, "fp16", dp=4).total == state_bytes(1000, "bf16", dp=4).total
    assert state_bytes(1000, "bf16", dp=4, zero_stage=0).optimizer == 12000
    assert state_bytes(1000, "bf16", dp=4, reduce_dtype="weights").gradients == 6000
    assert state_bytes(1000, "bf16", dp=1, reduce_dtype="weights").gradients == 4000


def test_starcoders_summary(starcoder: RunConfig) -> None:
    summary = summarize(starcoder)
    assert (summary.world_size, summary.parameters) == (512, 15_517_456_384)
    assert (summary.tokens_per_step, summary.micro_batches) == (4_194_304, 16)
    assert summary.total_tokens == 1_048_576_000_000
    assert summary.bubble == pytest.approx(3 / 19)
    assert summary.parameters_per_rank_max == 1_085_724_160
    assert summary.bytes_per_rank_max == state_bytes_on_rank(starcoder, 0).total
    text = render_summary(summary)
    for told in ("15,517,456,384 parameters", "4,194,304 tokens a step", "15.8 % bubble", "104.9 GFLOP a token"):
        assert told in text
    assert "6.92 GB of state" in text
    assert "4 in flight" in " ".join(text.split())


@pytest.mark.parametrize(
    ("schedule", "chunks", "bubble", "held"),
    [
        ("gpipe", 1, 3 / 19, 16),
        ("1f1b", 1, 3 / 19, 4),
        ("interleaved", 2, 1.5 / 17.5, 5.5),
        ("zb-h1", 1, 1 / 17, 4),
        ("zb-v", 2, 0.5 / 16.5, 4),
    ],
)
def test_bubble_and_activations_follow_the_schedule(
    starcoder: RunConfig, schedule: str, chunks: int, bubble: float, held: float
) -> None:
    parallel = starcoder.parallel.model_copy(update={"schedule": schedule, "chunks": chunks})
    summary = summarize(starcoder.model_copy(update={"parallel": parallel}))
    assert (summary.bubble, summary.micro_batches_held) == (pytest.approx(bubble), held)
    assert f"{schedule} of 2 chunks" in render_summary(summary) or chunks == 1


def test_the_head_weighs_eight_tenths_of_a_block(starcoder: RunConfig) -> None:
    assert head_cost(starcoder.model) == pytest.approx(0.80, abs=0.005)
    assert [len(layers) for layers in layers_of(starcoder.model, starcoder.parallel)] == [10] * 4


def test_stage_layers_go_before_the_split() -> None:
    model = ModelConfig(layers=8, hidden=64, heads=8, vocab=128)
    parallel = ParallelConfig(pp=2, schedule="zb-v", stage_layers=(3, 2, 2, 1))
    assert layers_of(model, parallel) == (range(3), range(3, 5), range(5, 7), range(7, 8))
    ends, middle = (count_on_rank(model, parallel, stage) for stage in (0, 1))
    assert ends.attention == middle.attention and ends.token_embedding == 128 * 64
    assert (ends.head_copy, middle.token_embedding, middle.head_copy) == (0, 0, 0)
    assert ends.total + middle.total == count_parameters(model).total
    with pytest.raises(ValueError, match="does not split 8 layers"):
        layers_of(model, ParallelConfig(pp=2, stage_layers=(3, 2)))


def test_the_summarys_lines_are_aligned(starcoder: RunConfig) -> None:
    lines = render_summary(summarize(starcoder)).splitlines()
    column = lines[0].index("TP 4")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_one_stage_has_no_bubble(starcoder: RunConfig) -> None:
    parallel = starcoder.parallel.model_copy(update={"pp": 1})
    summary = summarize(starcoder.model_copy(update={"parallel": parallel}))
    assert summary.bubble == 0.0
    assert "0.0 % bubble" in render_summary(replace(summary, bubble=0.0))


def test_the_table_of_schedules_is_current() -> None:
    page = (EXAMPLES.parent / "docs" / "schedules.md").read_text(encoding="utf-8")
    assert render_schedule_table() in page, "run `python -m megacode.plan.schedule_table` and paste it there"
