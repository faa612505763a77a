"""Tiles of the flash attention kernels: a few candidates for each GPU and mode, the best guess first.

Chosen from the compile report (Triton 3.7.1), and for heads of 128 on an H100 by their times (docs/kernels.md): the
first candidate neither spills registers nor exceeds the GPU's shared memory, in any of its modes; a later one may, and
wins only where a chooser (`tuning.py`) has timed it.

What guided the order: large tiles read Q, K and V less often. wgmma (sm_90) gives 64 rows to four warps and takes its
left operand from registers, so the key-value gradient holds 128 keys still with eight warps, and two programs of four
warps on a multiprocessor may hide the softmax of one behind the products of the other. mma.sync (sm_80) keeps operands
in registers too, so its tiles are smaller. The mask of a window and the random keys of dropout take registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Tile:
    """Launch shape of one kernel: rows of the query and key tiles, warps, and stages of the load pipeline."""

    query: int
    key: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Mode:
    """What decides which tiles are good.

    capability:    of the GPU, 80 for sm_80.
    width:         of a head, up to 128.
    element_bytes: 2 or 4.
    dropout:       whether probabilities drop out.
    bounded:       whether there is a window or a document mask.
    ragged:        whether tiles reach beyond a sequence or a head: no multiple of 128 tokens, no power of two as width.
    loops:         whether a program of dK and dV adds up several query heads, one after the other.
    """

    capability: int
    width: int
    element_bytes: int
    dropout: bool
    bounded: bool
    ragged: bool
    loops: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """The row of a table: the kind of GPU, and the head width padded to 64 or 128."""
        # 163 and 227 KiB of shared memory in a block; the others (sm_86, sm_89, sm_120) have 99.
        gpu = {80: "a100", 90: "h100", 100: "h100", 103: "h100"}.get(self.capability, "small")
        return gpu, 64 if self.width <= 64 else 128


@dataclass(frozen=True)
class _Candidates:
    """Candidates in each mode, best guess first; those of a mode that is not given are the plain ones.

    `both`: dropout in a window or document. `ragged`: the first candidate of a ragged mode, whose masks take registers.
    """

    plain: tuple[Tile, ...]
    ragged: Tile
    bounded: tuple[Tile, ...] = ()
    dropout: tuple[Tile, ...] = ()
    both: tuple[Tile, ...] = ()

    def of(self, mode: Mode) -> tuple[Tile, ...]:
        """Return the candidates in `mode`."""
        special = {(True, True): self.both, (True, False): self.dropout, (False, True): self.bounded}
        tiles = special.get((mode.dropout, mode.bounded), ()) or self.plain
        return (self.ragged, *(tile for tile in tiles if tile != self.ragged)) if mode.ragged else tiles


# fp32 is for debugging: exact products run off the tensor cores, so these tiles only have to fit.
_WIDE = (Tile(32, 32, 8, 1), Tile(32, 32, 4, 1), Tile(32, 64, 8, 1))

_FORWARD: Mapping[tuple[str, int], _Candidates] = MappingProxyType(
    {
        ("h100", 64): _Candidates(
            plain=(Tile(128, 128, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 4, 3), Tile(64, 64, 4, 3)),
            ragged=Tile(128, 64, 8, 2),
        ),
        ("h100", 128): _Candidates(
            plain=(Tile(128, 64, 8, 3), Tile(128, 128, 8, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 2)),
            dropout=(Tile(128, 64, 8, 3), Tile(64, 64, 4, 2), Tile(128, 128, 8, 2)),
            both=(Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(128, 32, 8, 3)),
            ragged=Tile(128, 64, 8, 2),
        ),
        ("a100", 64): _Candidates(
            plain=(Tile(128, 128, 8, 3), Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
            ragged=Tile(128, 64, 8, 2),
        ),
        ("a100", 128): _Candidates(
            plain=(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2), Tile(128, 32, 8, 3)),
            ragged=Tile(128, 32, 8, 3),
        ),
        ("small", 64): _Candidates(
            plain=(Tile(128, 64, 8, 2), Tile(64, 64, 4, 3), Tile(128, 32, 8, 3)),
            ragged=Tile(128, 32, 8, 2),
        ),
        ("small", 128): _Candidates(
            plain=(Tile(128, 32, 8, 3), Tile(64, 64, 4, 2), Tile(128, 64, 8, 2)),
            ragged=Tile(128, 32, 8, 2),
        ),
    }
)
_QUERY_GRAD: Mapping[tuple[str, int], _Candidates] = MappingProxyType(
    {
        ("h100", 64): _Candidates(
            plain=(Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 3), Tile(128, 64, 8, 2)),
            ragged=Tile(128, 64, 8, 2),
        ),
        ("h100", 128): _Candidates(
            plain=(Tile(128, 64, 8, 3), Tile(64, 64, 4, 2), Tile(128, 128, 8, 2), Tile(128, 64, 8, 2)),
            ragged=Tile(128, 32, 8, 3),
        ),
        ("a100", 64): _Candidates(
            plain=(Tile(128, 64, 8, 2), Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
            ragged=Tile(64, 64, 8, 2),
        ),
        ("a100", 128): _Candidates(
            plain=(Tile(128, 64, 8, 2), Tile(64, 64, 4, 2), Tile(64, 64, 8, 3), Tile(128, 32, 8, 3)),
            bounded=(Tile(128, 32, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 8, 3)),
            both=(Tile(128, 32, 8, 3), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 8, 3)),
            ragged=Tile(128, 32, 8, 3),
        ),
        ("small", 64): _Candidates(
            plain=(Tile(128, 64, 8, 2), Tile(64, 64, 4, 3), Tile(64, 64, 8, 3)),
            ragged=Tile(64, 64, 8, 2),
        ),
        ("small", 128): _Candidates(
            plain=(Tile(128, 32, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 4, 2)),
            ragged=Tile(64, 32, 8, 2),
        ),
    }
)
_KEY_VALUE_GRAD: Mapping[tuple[str, int], _Candidates] = MappingProxyType(
    {
        ("h100", 64): _Candidates(
            plain=(Tile(64, 128, 8, 2), Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(64, 128, 8, 3)),
            ragged=Tile(32, 128, 8, 2),
        ),
        ("h100", 128): _Candidates(
            plain=(Tile(64, 128, 8, 3), Tile(64, 128, 8, 2), Tile(32, 128, 8, 3)),
            bounded=(Tile(32, 128, 8, 3), Tile(64, 128, 8, 2), Tile(32, 128, 8, 2)),
            dropout=(Tile(64, 128, 8, 3), Tile(32, 128, 8, 3), Tile(64, 128, 8, 2)),
            both=(Tile(32, 128, 8, 3), Tile(64, 128, 8, 2), Tile(32, 128, 8, 2)),
            ragged=Tile(32, 128, 8, 2),
        ),
        ("a100", 64): _Candidates(
            plain=(Tile(64, 128, 8, 2), Tile(64, 64, 4, 2), Tile(32, 128, 8, 2)),
            bounded=(Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
            both=(Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
            ragged=Tile(32, 128, 8, 2),
        ),
        ("a100", 128): _Candidates(
            plain=(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 3), Tile(64, 128, 8, 2)),
            both=(Tile(64, 64, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 8, 3)),
            ragged=Tile(32, 64, 8, 2),
        ),
        ("small", 64): _Candidates(
            plain=(Tile(64, 128, 8, 2), Tile(64, 64, 4, 2), Tile(32, 128, 8, 2)),
            bounded=(Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
            dropout=(Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
            both=(Tile(32, 128, 8, 2), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
            ragged=Tile(32, 64, 8, 2),
        ),
        ("small", 128): _Candidates(
            plain=(Tile(64, 64, 8, 2), Tile(32, 64, 8, 2), Tile(32, 64, 8, 3)),
            ragged=Tile(32, 64, 8, 2),
        ),
    }
)


def forward_tiles(mode: Mode) -> tuple[Tile, ...]:
    """Return the candidates of the forward kernel, best guess first."""
    return _WIDE if mode.element_bytes == 4 else _FORWARD[mode.key].of(mode)


def query_grad_tiles(mode: Mode) -> tuple[Tile, ...]:
    """Return the candidates of the kernel of dQ, best guess first."""
    return _WIDE if mode.element_bytes == 4 else _QUERY_GRAD[mode.key].of(mode)


def key_value_grad_tiles(mode: Mode) -> tuple[Tile, ...]:
    """Return the candidates of the kernel of dK and dV, best guess first."""
    tiles = _WIDE if mode.element_bytes == 4 else _KEY_VALUE_GRAD[mode.key].of(mode)
    # The loop over heads takes registers: with a third stage the H100's best tile then spills 8 bytes a thread.
    return tuple(sorted(tiles, key=lambda tile: tile == Tile(64, 128, 8, 3))) if mode.loops else tiles
