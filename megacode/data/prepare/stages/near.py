"""Stages 3 and 4: the pairs of near duplicates, band by band, and then which document of each cluster stays.

A signature is named by 64 bits: its bucket, then its row there. Pairs are looked for in one part of the range of
keys of one band at a time; as every bucket's keys are in order, nothing else is read, and signatures of candidates.

Held in memory: of the pairs, 16 bytes for each document of about PART_BUCKETS buckets and what comparing needs; of
the clusters, the pairs of all bands and some hundred bytes for each document that has a near duplicate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megacode.data.prepare.near.clusters import clusters as connected
from megacode.data.prepare.near.clusters import keepers
from megacode.data.prepare.near.pairs import pairs_in_band
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.stages.unique import Facts, read_facts
from megacode.data.prepare.tally import NEAR, Tally
from megacode.data.prepare.writing import write_array, write_json

BUCKET_SHIFT = 32
_ROW = (1 << BUCKET_SHIFT) - 1


def pairs(plan: Plan, rank: int) -> None:
    """Write the pairs int64 [p, 2] of some bands' parts: rank, rank + tasks, … of all parts of all bands."""
    every = range(rank, plan.bands * plan.parts, plan.comparers)
    found = np.concatenate([_pairs_of(plan, *divmod(number, plan.parts)) for number in every])
    write_array(plan.data / "pairs" / f"{rank:05d}.npy", found)
    write_json(plan.stats("pairs", rank), {"pairs": int(found.shape[0])})


def _pairs_of(plan: Plan, band: int, part: int) -> np.ndarray:
    """Return the pairs int64 [p, 2] of one band and one part of the range of its keys."""
    keys, names = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for bucket in range(plan.buckets):
        ordered = np.load(plan.unique(bucket, "keys.npy"), mmap_mode="r", allow_pickle=False)[band]
        order = np.load(plan.unique(bucket, "order.npy"), mmap_mode="r", allow_pickle=False)[band]
        own = slice(*(_border(ordered, part + more, plan.parts) for more in (0, 1)))
        keys.append(np.asarray(ordered[own]))
        names.append((bucket << BUCKET_SHIFT) + order[own].astype(np.int64))
    name_of = np.concatenate(names)
    found = pairs_in_band(
        np.concatenate(keys), lambda rows: _signatures(plan, name_of[rows]), plan.options.deduplicate.threshold
    )
    return name_of[found]


def _border(keys: np.ndarray, part: int, parts: int) -> int:
    """Return how many of the ascending `keys` lie before part `part` of `parts` of the range of uint64."""
    if part == parts:
        return int(keys.size)
    return int(np.searchsorted(keys, np.uint64((part << 64) // parts)))


def _signatures(plan: Plan, names: np.ndarray) -> np.ndarray:
    """Return the signatures uint32 [n, permutations] of `names` int64 [n], read from their buckets' files."""
    matrix = np.empty((names.size, plan.options.deduplicate.permutations), dtype=np.uint32)
    for bucket, places in _by_bucket(names):
        stored = np.load(plan.unique(bucket, "matrix.npy"), mmap_mode="r", allow_pickle=False)
        matrix[places] = stored[names[places] & _ROW]
    return matrix


def _by_bucket(names: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (bucket, places of its names) for each bucket that `names` has any of."""
    buckets = names >> BUCKET_SHIFT
    order = np.argsort(buckets, kind="stable")
    found, starts = np.unique(buckets[order], return_index=True)
    for number, bucket in enumerate(found.tolist()):
        yield bucket, order[starts[number] : starts[number + 1] if number + 1 < found.size else None]


def clusters(plan: Plan, rank: int) -> None:
    """Write which documents go, because they are near duplicates of one that stays."""
    tasks = range(plan.comparers)
    every = [np.load(plan.data / "pairs" / f"{task:05d}.npy", allow_pickle=False) for task in tasks]
    names, numbered = np.unique(np.concatenate(every), return_inverse=True)
    facts = [fact for bucket, at in _by_bucket(names) for fact in _facts(plan, bucket, names[at])]
    stays = _keepers(names.size, numbered.reshape(-1, 2), facts)
    lost = np.flatnonzero(stays != np.arange(names.size))
    rows = np.array([facts[one][0] for one in lost.tolist()], dtype=np.int64)
    write_array(plan.lost, np.stack([names[lost] >> BUCKET_SHIFT, rows], axis=1))
    tally = Tally()
    reason = f"at least {plan.options.deduplicate.threshold:g} like another document"
    for one in lost.tolist():
        tally.drop(NEAR, reason, f"{facts[one][4]} (like {facts[int(stays[one])][4]})")
    write_json(plan.stats("clusters", rank), {"tally": tally.to_table()})


def _facts(plan: Plan, bucket: int, names: np.ndarray) -> list[Facts]:
    """Return the facts of a bucket's names, ascending."""
    return read_facts(plan.unique(bucket, "facts.jsonl"), names & _ROW)


def _keepers(count: int, edges: np.ndarray, facts: list[Facts]) -> np.ndarray:
    """Return for each document which one of its cluster stays: by stars, date, length, path and id."""
    by_place = sorted(range(count), key=lambda one: facts[one][4:])
    ties = np.empty(count, dtype=np.int64)
    ties[by_place] = np.arange(count)
    return keepers(
        connected(count, edges),
        np.array([fact[1] for fact in facts], dtype=np.int64),
        np.array([fact[2] for fact in facts], dtype=np.str_),
        np.array([fact[3] for fact in facts], dtype=np.int64),
        ties,
    )
