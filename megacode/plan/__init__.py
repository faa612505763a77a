"""What a configuration costs, by arithmetic alone: parameters, FLOPs, bytes, bubble. No torch, no device."""

from megacode.plan.activations import activation_bytes_on_rank, block_bytes
from megacode.plan.flops import Attention, flops_per_token, model_flops_utilization, tflops_per_rank
from megacode.plan.memory import StateBytes, state_bytes, state_bytes_on_rank
from megacode.plan.parameters import ParameterCount, count_on_rank, count_parameters, fullest_rank
from megacode.plan.summary import RunSummary, render_summary, summarize

__all__ = [
    "Attention",
    "ParameterCount",
    "RunSummary",
    "StateBytes",
    "activation_bytes_on_rank",
    "block_bytes",
    "count_on_rank",
    "count_parameters",
    "flops_per_token",
    "fullest_rank",
    "model_flops_utilization",
    "render_summary",
    "state_bytes",
    "state_bytes_on_rank",
    "summarize",
    "tflops_per_rank",
]
