"""Cross entropy, AdamW and sums of squares compile for A100 and H100 without spills, once for all steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megacode.kernels import adamw, cross_entropy
from megacode.kernels.cases import adamw as adamw_cases
from megacode.kernels.cases import cross_entropy as cross_entropy_cases
from megacode.kernels.cases import squares as squares_cases
from megacode.kernels.cases.case import Case
from megacode.kernels.torch_optim_loss import AdamWHyper

Compile = Callable[[int, Callable[[], None]], dict[str, Any]]
CASES = (*cross_entropy_cases.cases(), *adamw_cases.cases(), *squares_cases.cases())
WARPS_RESIDENT = 64  # of one multiprocessor of A100 and H100, which has 65,536 registers
META = torch.device("meta")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}, {case.shape}")
@pytest.mark.parametrize("capability", [80, 90])
def test_fits_and_leaves_half_of_all_warps_resident(capability: int, case: Case, compile_launches: Compile) -> None:
    report = compile_launches(capability, lambda: case.triton(*case.make_inputs(META)))
    assert set(report) == set(case.costs)
    for kernel in report.values():
        assert kernel.spilled == 0, f"sm_{capability} {kernel}"
        assert kernel.registers * 32 * WARPS_RESIDENT // 2 <= 65536, f"sm_{capability} {kernel}"
        assert kernel.shared <= 4096, f"sm_{capability} {kernel}"  # reductions between warps, no tiles


@pytest.mark.parametrize("capability", [80, 90])
def test_moves_16_bytes_at_a_time(capability: int, compile_launches: Compile) -> None:
    for case in CASES[1], CASES[3], CASES[4]:
        report = compile_launches(capability, lambda case=case: case.triton(*case.make_inputs(META)))
        for name in report.keys() - {"total_kernel"}:
            assert "ld.global.v4.b32" in report[name].ptx, name
    adamw_ptx = compile_launches(capability, lambda: CASES[2].triton(*CASES[2].make_inputs(META)))["adamw_kernel"].ptx
    assert (adamw_ptx.count("ld.global.v4"), adamw_ptx.count("st.global.v4"), adamw_ptx.count("st.global.v2")) == (
        4, 3, 1,
    )  # fmt: skip


def test_a_new_step_reuses_the_kernel(compile_launches: Compile) -> None:
    tensors = CASES[2].make_inputs(META)
    binaries = []
    for update, lr, decay in [(1, 0.0, 0.1), (2, 1.0, 0.0), (1000, 3e-4, 0.1), (10**9, 1e-30, 0.1)]:
        hyper = AdamWHyper(lr, 0.9, 0.95, 1e-8, decay)
        report = compile_launches(
            80, lambda hyper=hyper, update=update: adamw.adamw(*tensors[:5], hyper, update, tensors[5])
        )
        binaries.append(report["adamw_kernel"].binary)
    assert all(binary is binaries[0] for binary in binaries)


def test_another_number_of_rows_reuses_the_kernel(compile_launches: Compile) -> None:
    binaries = []
    for rows in (1, 16, 683, 2048):
        logits = torch.empty(rows, 12288, dtype=torch.bfloat16, device=META)
        targets = torch.empty(rows, dtype=torch.int64, device=META)
        factors = torch.empty(rows, device=META)
        report = compile_launches(
            80,
            lambda logits=logits, targets=targets, factors=factors: cross_entropy.vocab_cross_entropy(
                logits, targets
            ).write_gradient(factors, factors),
        )
        binaries.append([kernel.binary for kernel in report.values()])
    assert all(one is other for later in binaries for one, other in zip(binaries[0], later, strict=True))


@pytest.mark.parametrize("width", [1, 5, 32003])
def test_widths_that_no_power_of_two_divides_compile(width: int, compile_launches: Compile) -> None:
    case = cross_entropy_cases.case("odd", 64, width)
    report = compile_launches(90, lambda: case.triton(*case.make_inputs(META)))
    assert all(kernel.spilled == 0 for kernel in report.values())
