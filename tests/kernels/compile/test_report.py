"""The compile report: every case on both targets, its numbers, what it restores, and the table of the documents."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from megacode.kernels import squares
from megacode.kernels.cases.case import Case
from megacode.kernels.cases.registry import all_cases
from megacode.kernels.compile_report import rows_of
from megacode.kernels.offline import compiling_for
from megacode.kernels.roofline import GPUS
from megacode.prove import kernel_report

PROJECT = Path(__file__).parents[3]
CASES = all_cases()
OPS = {
    "attention", "layer_norm", "add_layer_norm", "bias_dropout_residual", "bias_gelu", "rotary", "cross_entropy",
    "adamw", "sum_of_squares",
}  # fmt: skip
# Bytes of all launches of a case, as a multiple of the least possible; attention reads K and V again for each tile.
LARGEST_SHARE = {"layer_norm": 1.1, "add_layer_norm": 1.1, "adamw": 1.0, "bias_gelu": 1.1}
OFF_TENSOR_CORES = ("attention_sum_parts_kernel",)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}, {case.shape}")
@pytest.mark.parametrize("capability", [80, 90])
def test_case_runs_well(capability: int, case: Case) -> None:
    rows = list(rows_of(case, capability))
    assert rows
    for row in rows:
        assert row.spill_bytes == 0 and not row.problem, row
        assert row.shared_bytes <= GPUS[capability].shared_of_program, row
        assert row.bytes >= row.least_bytes > 0 and row.roofline_us > 0, row
        assert row.tensor_cores == (case.op == "attention" and row.kernel not in OFF_TENSOR_CORES), row


@pytest.mark.parametrize("case", [case for case in CASES if case.op in LARGEST_SHARE], ids=lambda case: case.op)
def test_bytes_moved_stay_near_the_least_possible(case: Case) -> None:
    moved = sum(cost.moved_bytes for cost in case.costs.values())
    least = sum(cost.least_bytes for cost in case.costs.values())
    assert least <= moved <= LARGEST_SHARE[case.op] * least, f"{moved / least:.3f} times the least"


def test_every_op_of_the_engine_has_cases_and_names_are_unique() -> None:
    assert {case.op for case in CASES} >= OPS
    assert len({(case.op, case.shape) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "occupancy"),
    [
        # Worked by hand from CUDA's rules for compute capability 8.0: 65,536 registers, 164 KiB, 64 warps.
        (32, 0, 8, 1.0),  # 64 warps of 1,024 registers
        (33, 0, 8, 0.75),  # 1,280 registers a warp: 51 warps, 48 in fours, 6 programs
        (255, 98_304, 8, 0.125),  # 8,192 registers a warp: 8 warps
        (64, 83_968, 4, 0.0625),  # 82 KiB and the reserved one: one program
        (64, 82_944, 4, 0.125),  # 81 KiB and the reserved one: two programs
        (16, 0, 1, 0.5),  # 32 programs at most
        (64, 163 * 1024 + 1, 4, 0.0),  # more than one program may have
    ],
)
def test_occupancy_follows_the_rules_of_cuda(registers: int, shared: int, warps: int, occupancy: float) -> None:
    assert GPUS[80].occupancy(registers, shared, warps) == occupancy


def test_the_least_time_is_that_of_the_slower_of_bytes_and_operations() -> None:
    assert GPUS[80].roofline_us(312 * 10**6, 0, True) == pytest.approx(1.0)
    assert GPUS[80].roofline_us(312 * 10**6, 0, False) == pytest.approx(16.0)
    assert GPUS[90].roofline_us(10**6, 6_700_000, True) == pytest.approx(2.0)


def test_compiling_restores_launches_and_the_driver() -> None:
    run, active = JITFunction.run, driver._active
    with pytest.raises(RuntimeError, match="inside"), compiling_for(90) as launches:
        squares.scale_(torch.empty(64, device="meta"), torch.empty((), device="meta"))
        assert [launch.name for launch in launches] == ["scale_kernel"]
        assert launches[0].options["num_warps"] == launches[0].binary.metadata.num_warps
        raise RuntimeError("inside")
    assert JITFunction.run is run and driver._active is active


def test_a_spill_or_too_much_shared_memory_is_a_problem() -> None:
    (row,) = rows_of(all_cases("scale_")[0], 90)
    assert row.problem == ""
    assert "spills 8 bytes" in replace(row, spill_bytes=8).problem
    assert "do not fit" in replace(row, occupancy=0.0).problem


def test_the_table_in_the_documents_is_that_of_the_code() -> None:
    page = (PROJECT / "docs" / "kernels.md").read_text(encoding="utf-8")
    written, now = (
        kernel_report.table_of(page),
        kernel_report.render_markdown(kernel_report.compile_all("sm_80,sm_90", None)),
    )
    if not written.startswith(f"Triton {triton.__version__}:"):  # another compiler has other registers
        written, now = (re.findall(r"^\| (`\w+` \| [^|]*)", table, re.MULTILINE) for table in (written, now))
    assert written == now, "run `megacode kernels report --into docs/kernels.md`"


def test_a_page_keeps_what_stands_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{kernel_report.BEGIN}\nold\n{kernel_report.END}\n\nafter\n")
    rows = kernel_report.compile_all("sm_90", "scale_")
    kernel_report.write_page(page, rows)
    text = page.read_text()
    assert text.startswith(f"before\n\n{kernel_report.BEGIN}\n") and text.endswith(f"\n{kernel_report.END}\n\nafter\n")
    assert "`scale_kernel`" in text and "old" not in text
    page.write_text("no markers")
    with pytest.raises(kernel_report.CannotReport, match="lacks the lines"):
        kernel_report.write_page(page, rows)
