"""Flash attention compiles for A100 and H100: tensor cores, no spills in any mode, shared memory in limits.

The shapes of `kernels/cases` are compiled by the report; here are the others: head widths, batches, odd lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megacode.kernels import flash_attention
from megacode.kernels import flash_attention_choices as choices
from megacode.kernels.counter_random import AttentionDropout, fold_seed

# Shared memory that one block may use, in bytes (CUDA programming guide, compute capabilities 8.0, 8.9 and 9.0).
SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
TENSOR_CORES = {80: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async"}
DROPOUT = AttentionDropout(probability=0.1, seed=fold_seed(1234, 5), first_head=12, num_heads=48)
MATRIX_KERNELS = ("attention_forward_kernel", "attention_query_grad_kernel", "attention_key_value_grad_kernel")
Compile = Callable[[int, Callable[[], None]], dict[str, Any]]


def attention(
    width: int,
    dtype: torch.dtype,
    dropout: AttentionDropout | None,
    length: int = 8192,
    batch: int = 1,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> None:
    """Forward and backward of one rank's heads of StarCoder at tp = 4: 12 of 48 query heads, one key-value head."""
    query, key, value = (
        torch.empty(batch, length, heads, width, dtype=dtype, device="meta", requires_grad=True) for heads in (12, 1, 1)
    )
    flash_attention.causal_attention(query, key, value, dropout, window, documents).sum().backward()


def assert_fits(report: dict[str, Any], capability: int) -> None:
    """On tensor cores, without register spills, and with a block's shared memory."""
    assert {*MATRIX_KERNELS} <= set(report) <= {*MATRIX_KERNELS, "attention_sum_parts_kernel"}
    for name, kernel in report.items():
        assert kernel.spilled == 0, f"sm_{capability} {kernel}"
        assert kernel.shared <= SHARED_LIMIT[capability], f"sm_{capability} {kernel}"
        if name in MATRIX_KERNELS:
            assert TENSOR_CORES[capability] in kernel.ptx, f"{name} computes off the tensor cores"


@pytest.mark.parametrize(
    ("width", "length", "batch", "dropout", "window"),
    [
        # At batch 4 a program of the key-value gradient loops over several heads, which costs registers.
        (128, 8192, 4, None, None),
        (128, 8192, 4, DROPOUT, 4096),
        (64, 8192, 4, None, 4096),
        (64, 8192, 1, DROPOUT, None),
        (80, 8191, 1, None, None),
        (80, 8191, 1, DROPOUT, 4096),
    ],
)
@pytest.mark.parametrize("capability", [80, 90])
def test_fits(
    capability: int,
    width: int,
    length: int,
    batch: int,
    dropout: AttentionDropout | None,
    window: int | None,
    compile_launches: Compile,
) -> None:
    documents = (length,) * batch if window else None
    report = compile_launches(
        capability, lambda: attention(width, torch.bfloat16, dropout, length, batch, window, documents)
    )
    assert_fits(report, capability)


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["plain", "dropout"])
def test_fits_where_shared_memory_is_small(dropout: AttentionDropout | None, compile_launches: Compile) -> None:
    assert_fits(compile_launches(89, lambda: attention(128, torch.float16, dropout)), 89)


def test_in_fp32_is_exact_and_within_shared_memory(compile_launches: Compile) -> None:
    report = compile_launches(80, lambda: attention(128, torch.float32, None))
    for kernel in report.values():  # fp32 is for debugging: it may spill, and must not round through tf32
        assert kernel.shared <= SHARED_LIMIT[80], str(kernel)
        assert "mma.sync" not in kernel.ptx, str(kernel)


def test_a_new_seed_rank_or_set_of_documents_reuses_the_kernel(compile_launches: Compile) -> None:
    # Integers are specialized by value (1, multiples of 16, 32 or 64 bits) unless a kernel says otherwise: a dropout
    # seed that changes each step would recompile in the middle of training.
    binaries = []
    for seed, first_head in [(3, 0), (2**63 + 5, 1), (2**40, 12), (1, 36)]:
        dropout = AttentionDropout(0.1, seed, first_head, 48)
        documents = (1 + first_head, 8191 - first_head)
        report = compile_launches(
            80,
            lambda dropout=dropout, documents=documents: attention(64, torch.bfloat16, dropout, documents=documents),
        )
        binaries.append([report[name].binary for name in MATRIX_KERNELS])
    assert all(one is other for later in binaries[1:] for one, other in zip(binaries[0], later, strict=True))


def test_multi_query_backward_fills_the_gpu(compile_launches: Compile) -> None:
    report = compile_launches(80, lambda: attention(128, torch.bfloat16, None))
    heads_and_parts, key_tiles = report["attention_key_value_grad_kernel"].grid
    assert 12 % heads_and_parts == 0  # of one key-value head
    assert key_tiles * heads_and_parts >= 512


def test_there_are_three_to_five_candidates_and_their_grids_exist() -> None:
    kernels = (choices.forward_tiles, choices.query_grad_tiles, choices.key_value_grad_tiles)
    for candidates in kernels:
        for capability in (80, 89, 90, 100):
            for number in range(32):
                width, element_bytes = (64, 128)[number & 1], (2, 4)[number >> 1 & 1]
                dropout, bounded, ragged = (bool(number >> bit & 1) for bit in (2, 3, 4))
                tiles = candidates(choices.Mode(capability, width, element_bytes, dropout, bounded, ragged))
                assert 3 <= len(tiles) <= 5 + ragged
                assert len(set(tiles)) == len(tiles)
                # CUDA's grid has at most 65,535 of them in a sequence.
                assert all(flash_attention.MAX_LENGTH // min(tile.query, tile.key) <= 65535 for tile in tiles)
