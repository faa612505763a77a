"""The kernels around the matrix products compile for A100 and H100 as they should, and move few bytes.

At StarCoder's and StarCoder2's shapes: no spills, wide loads, rows in flight, and bytes moved near the least possible.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from megacode.kernels import add_layer_norm as add_layer_norm_op
from megacode.kernels import layer_norm as layer_norm_op
from megacode.kernels.cases import add_layer_norm, bias_dropout_residual, bias_gelu, layer_norm, rotary
from megacode.kernels.cases.case import Case
from megacode.kernels.counter_random import HiddenDropout

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes that one block may use (CUDA programming guide)
CASES = [case for op in (layer_norm, add_layer_norm, bias_dropout_residual, bias_gelu, rotary) for case in op.cases()]
LARGEST_SHARE = {"layer_norm": 1.1, "add_layer_norm": 1.1}
Compile = Callable[[int, Callable[[], None]], dict[str, Any]]


def forward_and_backward(case: Case) -> None:
    """Launch every kernel of a case."""
    outputs = case.triton(*case.make_inputs(torch.device("meta")))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])


def normalize(hidden: int, dtype: torch.dtype, rows: int = 8192) -> None:
    """Forward and backward of LayerNorm."""
    x = torch.empty(rows, hidden, dtype=dtype, device="meta", requires_grad=True)
    weight, bias = (torch.empty(hidden, dtype=dtype, device="meta", requires_grad=True) for _ in range(2))
    layer_norm_op.layer_norm(x, weight, bias, 1e-5).sum().backward()


def add_and_normalize(hidden: int, dropout: HiddenDropout | None) -> None:
    """Forward and backward of the residual add with LayerNorm, bf16."""
    wide, vector = ((1, 2048, hidden), (hidden,))
    branch, branch_bias, residual, weight, bias = (
        torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for shape in (wide, vector, wide, vector, vector)
    )
    outputs = add_layer_norm_op.add_layer_norm(branch, branch_bias, residual, dropout, weight, bias, 1e-5)
    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])


def assert_fits(report: dict[str, Any], capability: int) -> None:
    """No register spills, and shared memory within a block's limit."""
    for kernel in report.values():
        assert kernel.spilled == 0, f"sm_{capability} {kernel}"
        assert kernel.shared <= SHARED_LIMIT[capability], f"sm_{capability} {kernel}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.shape.split(',')[0]}")
@pytest.mark.parametrize("capability", [80, 90])
def test_case_fits_and_its_cost_names_every_kernel(capability: int, case: Case, compile_launches: Compile) -> None:
    report = compile_launches(capability, lambda: forward_and_backward(case))
    assert set(report) == set(case.costs)
    assert_fits(report, capability)
    for name, kernel in report.items():
        assert re.search(r"ld\.global\.v[24]|cp\.async", kernel.ptx), f"{name} loads element by element"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.shape.split(',')[0]}")
def test_bytes_moved_stay_near_the_least_possible(case: Case) -> None:
    moved = sum(cost.moved_bytes for cost in case.costs.values())
    least = sum(cost.least_bytes for cost in case.costs.values())
    assert least <= moved <= LARGEST_SHARE.get(case.op, 1.04) * least, f"{moved / least:.3f} times the least"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("hidden", [768, 4608, 6144, 8192])
@pytest.mark.parametrize("capability", [80, 90])
def test_layer_norm_fits(capability: int, hidden: int, dtype: torch.dtype, compile_launches: Compile) -> None:
    report = compile_launches(capability, lambda: normalize(hidden, dtype))
    assert set(report) == {"layer_norm_forward_kernel", "layer_norm_backward_kernel", "sum_partials_kernel"}
    assert_fits(report, capability)
    for name in ("layer_norm_forward_kernel", "layer_norm_backward_kernel"):
        assert "cp.async" in report[name].ptx, f"{name} does not hold rows in flight"


def test_layer_norm_compiles_at_the_widest_models(compile_launches: Compile) -> None:
    report = compile_launches(90, lambda: normalize(16384, torch.bfloat16))
    assert report["layer_norm_forward_kernel"].spilled == 0
    assert report["layer_norm_backward_kernel"].spilled <= 512  # bytes per thread; the sums outgrow the registers


@pytest.mark.parametrize("hidden", [768, 4608, 8192])
def test_add_layer_norm_fits_at_other_widths(hidden: int, compile_launches: Compile) -> None:
    dropout = HiddenDropout(0.1, 7, 0, 2048)
    for capability in (80, 90):
        assert_fits(compile_launches(capability, lambda: add_and_normalize(hidden, dropout)), capability)


def test_a_new_seed_or_rank_reuses_the_kernels(compile_launches: Compile) -> None:
    # A dropout seed that changes each step, specialized by its value, would recompile in the middle of training.
    binaries = []
    for seed, first in [(3, 0), (2**63 + 5, 1), (2**40, 4096), (1, 2048)]:
        dropout = HiddenDropout(0.1, seed, first, 8192)
        report = compile_launches(80, lambda dropout=dropout: add_and_normalize(768, dropout))
        binaries.append([kernel.binary for kernel in report.values()])
    assert all(one is other for later in binaries[1:] for one, other in zip(binaries[0], later, strict=True))


def test_few_programs_hold_rows_and_do_not_depend_on_the_gpu(compile_launches: Compile) -> None:
    grids = [compile_launches(capability, lambda: normalize(6144, torch.bfloat16, 2048)) for capability in (80, 90)]
    assert [kernel.grid for kernel in grids[0].values()] == [kernel.grid for kernel in grids[1].values()]
    assert grids[0]["layer_norm_backward_kernel"].grid == (90,)
