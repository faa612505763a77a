"""Every kernel compiles for A100 and H100 at StarCoder's shapes: tensor cores, no spills, shared memory in limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megacode.kernels import flash_attention, layer_norm
from megacode.kernels.counter_random import AttentionDropout, fold_seed

# Shared memory that one block may use, in bytes (CUDA programming guide, compute capabilities 8.0 and 9.0).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async"}
DROPOUT = AttentionDropout(probability=0.1, seed=fold_seed(1234, 5), first_head=12, num_heads=48)
MATRIX_KERNELS = ("attention_forward_kernel", "attention_query_grad_kernel", "attention_key_value_grad_kernel")
Compile = Callable[[int, Callable[[], None]], dict[str, Any]]


def attention(
    width: int, dtype: torch.dtype, dropout: AttentionDropout | None, length: int = 8192, batch: int = 1
) -> None:
    """Forward and backward of one rank's heads of StarCoder at tp = 4: 12 of 48 query heads, one key-value head."""
    query, key, value = (
        torch.empty(batch, length, heads, width, dtype=dtype, device="meta", requires_grad=True) for heads in (12, 1, 1)
    )
    flash_attention.causal_attention(query, key, value, dropout).sum().backward()


def normalize(hidden: int, dtype: torch.dtype) -> None:
    """Forward and backward of LayerNorm over 8192 rows."""
    x = torch.empty(8192, hidden, dtype=dtype, device="meta", requires_grad=True)
    weight, bias = (torch.empty(hidden, dtype=dtype, device="meta", requires_grad=True) for _ in range(2))
    layer_norm.layer_norm(x, weight, bias, 1e-5).sum().backward()


def assert_fits(report: dict[str, Any], capability: int) -> None:
    """No register spills, and shared memory within a block's limit."""
    for kernel in report.values():
        assert kernel.spilled == 0, f"sm_{capability} {kernel}"
        assert kernel.shared <= SHARED_LIMIT[capability], f"sm_{capability} {kernel}"


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["plain", "dropout"])
# At batch 4 a program of the key-value gradient loops over several heads, which costs registers.
@pytest.mark.parametrize(("width", "length", "batch"), [(128, 8192, 1), (128, 8192, 4), (64, 8192, 4), (80, 8191, 1)])
@pytest.mark.parametrize("capability", [80, 90])
def test_attention_fits_and_uses_tensor_cores(
    capability: int, width: int, length: int, batch: int, dropout: AttentionDropout | None, compile_launches: Compile
) -> None:
    report = compile_launches(capability, lambda: attention(width, torch.bfloat16, dropout, length, batch))
    assert set(report) == {*MATRIX_KERNELS, "attention_delta_kernel"}
    assert_fits(report, capability)
    for name in MATRIX_KERNELS:
        assert TENSOR_CORES[capability] in report[name].ptx, f"{name} computes off the tensor cores"


@pytest.mark.parametrize("capability", [80, 90])
def test_attention_in_fp16_fits(capability: int, compile_launches: Compile) -> None:
    report = compile_launches(capability, lambda: attention(128, torch.float16, None))
    assert_fits(report, capability)
    assert all(TENSOR_CORES[capability] in report[name].ptx for name in MATRIX_KERNELS)


def test_attention_in_fp32_is_exact_and_within_shared_memory(compile_launches: Compile) -> None:
    report = compile_launches(80, lambda: attention(128, torch.float32, None))
    for kernel in report.values():  # fp32 is for debugging: it may spill, and must not round through tf32
        assert kernel.shared <= SHARED_LIMIT[80], str(kernel)
        assert "mma.sync" not in kernel.ptx, str(kernel)


@pytest.mark.parametrize("hidden", [768, 6144, 8192])
@pytest.mark.parametrize("capability", [80, 90])
def test_layer_norm_fits(capability: int, hidden: int, compile_launches: Compile) -> None:
    report = compile_launches(capability, lambda: normalize(hidden, torch.bfloat16))
    assert set(report) == {"layer_norm_forward_kernel", "layer_norm_backward_kernel", "layer_norm_reduce_kernel"}
    assert_fits(report, capability)


def test_layer_norm_compiles_at_the_widest_models(compile_launches: Compile) -> None:
    report = compile_launches(90, lambda: normalize(16384, torch.bfloat16))
    assert report["layer_norm_forward_kernel"].spilled == 0
    assert report["layer_norm_backward_kernel"].spilled <= 512  # bytes per thread; the sums outgrow the registers


def test_a_new_seed_or_rank_reuses_the_kernel(compile_launches: Compile) -> None:
    # Integers are specialized by value (1, multiples of 16, 32 or 64 bits) unless a kernel says otherwise: a dropout
    # seed that changes each step would recompile in the middle of training.
    binaries = []
    for seed, first_head in [(3, 0), (2**63 + 5, 1), (2**40, 12), (1, 36)]:
        dropout = AttentionDropout(0.1, seed, first_head, 48)
        report = compile_launches(80, lambda dropout=dropout: attention(64, torch.bfloat16, dropout))
        binaries.append([report[name].binary for name in MATRIX_KERNELS])
    assert all(one is other for later in binaries[1:] for one, other in zip(binaries[0], later, strict=True))


def test_multi_query_backward_fills_the_gpu(compile_launches: Compile) -> None:
    report = compile_launches(80, lambda: attention(128, torch.bfloat16, None))
    key_tiles, heads, parts = report["attention_key_value_grad_kernel"].grid
    assert heads == 1 and 12 % parts == 0
    assert key_tiles * parts >= 512
