"""Decontamination: does a document hold a text of a benchmark, case and white space aside?

A needle is a text of a benchmark (a docstring, a solution, a question) in lower case without white space, as
StarCoder 2 matches (arXiv 2402.19173, section 3). A document is hashed in windows of WINDOW bytes that begin at every
STEP-th byte; of each needle the STEP windows of one stretch are in the index, so that one of them meets a hashed
window wherever the needle lies. What meets is searched for exactly: the result is that of a plain search for every
needle, at the cost of one pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megacode.data.prepare.needles import Needle, read_needles, stripped

STEP, WINDOW = 8, 16
STRETCH = WINDOW + STEP - 1
SLOTS_PER_WINDOW = 64
FEWEST_SLOT_BITS, MOST_SLOT_BITS = 12, 24
# Odd numbers without structure: the products' upper bits depend on every byte of the window.
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)


@dataclass(frozen=True)
class WindowIndex:
    """Which needles have a window of a given hash.

    `taken` [2**bits]: whether any hash begins with these bits; `hashes` [n]: sorted; `owners` [n]: the needle of each.
    """

    bits: int
    taken: np.ndarray
    hashes: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """The texts that must not be trained on, in the order of their files. `fingerprint`: sha256 of names and texts."""

    needles: tuple[Needle, ...]
    fingerprint: str
    index: WindowIndex
    short: tuple[int, ...]

    @classmethod
    def load(cls, paths: Iterable[Path | str]) -> Benchmarks:
        """Return the benchmarks of the files (needles.py says which forms). Raises DataError for one it cannot use."""
        return cls.of(needle for path in paths for needle in read_needles(Path(path)))

    @classmethod
    def of(cls, needles: Iterable[Needle]) -> Benchmarks:
        """Return the benchmarks made of `needles`, each text once, under its first name."""
        names: dict[bytes, str] = {}
        for needle in needles:
            names.setdefault(needle.text, needle.name)
        kept = tuple(Needle(name, text) for text, name in names.items() if text)
        digest = hashlib.sha256()
        for needle in kept:
            digest.update(f"{needle.name}\n{len(needle.text)}\n".encode("utf-8", "surrogatepass") + needle.text)
        short = tuple(number for number, needle in enumerate(kept) if len(needle.text) < STRETCH)
        return cls(kept, digest.hexdigest(), _build_index(kept), short)

    def hit(self, content: str) -> str | None:
        """Return the name of the first needle that `content` holds, case and white space aside, or None."""
        text = stripped(content)
        for number in sorted({*self.short, *_candidates(self.index, text)}):
            if self.needles[number].text in text:
                return self.needles[number].name
        return None


def _build_index(needles: Sequence[Needle]) -> WindowIndex:
    """Return the index of the needles of at least STRETCH bytes."""
    owners = [number for number, needle in enumerate(needles) if len(needle.text) >= STRETCH]
    stretches = b"".join(_stretch(needles[number].text) for number in owners)
    rows = np.frombuffer(stretches, np.uint8).reshape(-1, STRETCH)
    windows = np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=1)  # [needles, STEP, WINDOW]
    words = np.ascontiguousarray(windows).reshape(-1, WINDOW).view("<u8")
    hashes = words[:, 0] * FACTORS[0] + words[:, 1] * FACTORS[1]
    order = np.argsort(hashes, kind="stable")
    slots = max(len(hashes) * SLOTS_PER_WINDOW, 1)
    bits = min(max(slots.bit_length(), FEWEST_SLOT_BITS), MOST_SLOT_BITS)
    taken = np.zeros(1 << bits, dtype=bool)
    taken[hashes >> np.uint64(64 - bits)] = True
    return WindowIndex(bits, taken, hashes[order], np.repeat(owners, STEP).astype(np.int64)[order])


def _stretch(text: bytes) -> bytes:
    """Return the STRETCH bytes of `text` with the most different ones, for what is varied is seldom elsewhere."""
    starts = range(0, len(text) - STRETCH + 1, STEP)
    best = max(starts, key=lambda start: len(set(text[start : start + STRETCH])))
    return text[best : best + STRETCH]


def _candidates(index: WindowIndex, text: bytes) -> set[int]:
    """Return the needles of which a window seems to lie in `text`: all that do, and now and then another."""
    words = np.frombuffer(text, "<u8", count=len(text) // 8)
    if len(words) < 2 or not len(index.hashes):
        return set()
    hashes = words[:-1] * FACTORS[0]
    hashes += words[1:] * FACTORS[1]
    suspects = np.unique(hashes[index.taken[hashes >> np.uint64(64 - index.bits)]])
    first = np.searchsorted(index.hashes, suspects, side="left")
    last = np.searchsorted(index.hashes, suspects, side="right")
    ranges = zip(first, last, strict=True)
    return {int(owner) for start, end in ranges if start < end for owner in index.owners[start:end]}
