"""What partial sums cost: they are no input and no output of an op, so their least is nothing."""

from __future__ import annotations

from megacode.kernels.cases.case import Cost

BF16 = 2  # bytes
FP32 = 4


def written_bytes(sums: int, programs: int, width: int) -> int:
    """Bytes of `sums` fp32 rows of `width` columns from each program."""
    return sums * programs * width * FP32


def adding(sums: int, programs: int, width: int) -> Cost:
    """`sum_partials_kernel`: reads the partial rows, writes `sums` bf16 rows."""
    output = sums * width * BF16
    return Cost(written_bytes(sums, programs, width) + output, output, sums * programs * width)
