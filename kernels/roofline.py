"""What a GPU can do at best: how many programs fit on a multiprocessor, and the least time for bytes and operations.

Limits: CUDA C++ programming guide, "Compute Capabilities", and CUDA's occupancy rules (`cuda_occupancy.h`). Rates: data
sheets of A100 80 GB, H100 SXM and H200, dense. Time: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

_LANES = 32  # threads of a warp
_REGISTERS = 65_536  # of a multiprocessor, and what one program may have
_REGISTER_UNIT = 256  # registers are given to a warp in these
_WARP_UNIT = 4  # and to warps in these
_WARPS = 64  # resident on a multiprocessor
_PROGRAMS = 32  # resident on a multiprocessor
_SHARED_UNIT = 128  # bytes
_SHARED_RESERVED = 1024  # bytes of each program, for CUDA itself


@dataclass(frozen=True)
class Gpu:
    """What one kind of GPU has.

    shared_of_program, shared_of_multiprocessor: bytes.
    matrix_flops: of its tensor cores a second, bf16 or fp16, dense. vector_flops: fp32, off the tensor cores.
    bandwidth: bytes a second of its memory.
    """

    name: str
    capability: int
    shared_of_program: int
    shared_of_multiprocessor: int
    matrix_flops: float
    vector_flops: float
    bandwidth: float

    def occupancy(self, registers: int, shared_bytes: int, warps: int) -> float:
        """Return which share of a multiprocessor's 64 warps programs of one kernel can fill, 0 where none fits.

        registers: a thread. shared_bytes: a program. warps: a program.
        """
        registers_of_warp = _round_up(registers * _LANES, _REGISTER_UNIT)
        warps_by_registers = _REGISTERS // registers_of_warp // _WARP_UNIT * _WARP_UNIT
        shared = _round_up(shared_bytes + _SHARED_RESERVED, _SHARED_UNIT)
        by_shared = self.shared_of_multiprocessor // shared if shared_bytes <= self.shared_of_program else 0
        programs = min(warps_by_registers // _round_up(warps, _WARP_UNIT), by_shared, _WARPS // warps, _PROGRAMS)
        return programs * warps / _WARPS

    def roofline_us(self, flops: int, least_bytes: int, tensor_cores: bool) -> float:
        """Return the microseconds below which no kernel computes `flops` and moves `least_bytes`."""
        rate = self.matrix_flops if tensor_cores else self.vector_flops
        return max(flops / rate, least_bytes / self.bandwidth) * 1e6


GPUS: Mapping[int, Gpu] = MappingProxyType(
    {
        80: Gpu("A100-80", 80, 163 * 1024, 164 * 1024, 312e12, 19.5e12, 2.039e12),
        90: Gpu("H100 SXM", 90, 227 * 1024, 228 * 1024, 989e12, 66.9e12, 3.35e12),
    }
)
_H200 = replace(GPUS[90], name="H200", bandwidth=4.8e12)


def gpu_of(capability: int, name: str) -> Gpu | None:
    """Return what a GPU that CUDA calls `name` has, or None where this table does not know it."""
    if "H200" in name:
        return _H200
    if "PCIe" in name or "40GB" in name:  # slower than the ones of the table
        return None
    return GPUS.get(capability)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
