"""Model FLOPs per trained token, and utilization, with the convention always named.

A matrix multiplication costs 2 FLOPs per weight and token forward and twice that backward: 6 in all. Recomputation is
not counted (model, not hardware, FLOPs). What runs differ in is the attention matrix: `none` leaves it out (nearly the
6N rule), `causal` counts the half that is not masked (Megatron-LM since 2025-03), `full` counts all of it (Korthikanti
et al., arXiv 2205.05198, and PaLM). StarCoder at 8,192 tokens: 92.8, 104.9 and 116.9 GFLOP per token.
A sliding window of w keys, shorter than the s tokens, makes `causal` count w (1 - w / 2s) of them on average instead of
s / 2; `full` counts the whole matrix all the same.
"""

from __future__ import annotations

from enum import Enum

from megacode.config.schema import ModelConfig


class Attention(Enum):
    """How much of the attention matrix a FLOP count includes; the value is its name in logs and tables."""

    NONE = "none"
    CAUSAL = "causal"
    FULL = "full"


def flops_per_token(model: ModelConfig, sequence: int, attention: Attention = Attention.CAUSAL) -> float:
    """FLOPs of one token, forward and backward, in samples of `sequence` tokens; embedding look-ups cost none."""
    hidden, keys = model.hidden, model.kv_heads * model.head_width
    weights = hidden * (hidden + 2 * keys) + hidden * hidden + 2 * hidden * model.ffn
    dense = 6.0 * (model.layers * weights + model.vocab * hidden)
    window = min(model.window or sequence, sequence)
    seen = {Attention.NONE: 0.0, Attention.CAUSAL: window * (1.0 - window / (2 * sequence)), Attention.FULL: sequence}
    return dense + 12.0 * model.layers * hidden * seen[attention]


def tflops_per_rank(tokens_per_second: float, ranks: int, flops_per_token: float) -> float:
    """Model TFLOP/s of each of `ranks` ranks that together train on `tokens_per_second`."""
    return tokens_per_second * flops_per_token / ranks / 1e12


def model_flops_utilization(
    tokens_per_second: float, ranks: int, flops_per_token: float, peak_tflops: float
) -> float | None:
    """Model FLOP/s as a share of `peak_tflops` a rank (TFLOP/s); None where the peak is not given, as 0.

    Read it with the attention convention of `flops_per_token` and the peak beside it: neither is universal.
    """
    if peak_tflops <= 0:
        return None
    return tflops_per_rank(tokens_per_second, ranks, flops_per_token) / peak_tflops
