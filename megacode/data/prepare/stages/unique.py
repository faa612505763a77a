"""Stage 2: a bucket's documents, each content once, in the order of their hashes; their MinHash signatures.

Held in memory: the bucket's distinct documents, and a signature for each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from megacode.data.documents import Document, from_json, to_json
from megacode.data.prepare.buckets import bucket_lines
from megacode.data.prepare.near.bands import band_keys
from megacode.data.prepare.near.signatures import signatures
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.split import key_of
from megacode.data.prepare.tally import EXACT, Tally, bytes_of
from megacode.data.prepare.writing import DocumentWriter, replacing, write_array, write_json

DUPLICATE = "same content as another document"
Facts = tuple[int, int, str, int, str, str]  # row among the unique documents, stars, date, characters, path, id


def unique(plan: Plan, rank: int) -> None:
    """Write the distinct documents of bucket `rank`, and what finding its near duplicates needs."""
    tally = Tally()
    kept = _distinct(plan, rank, tally)
    with DocumentWriter(plan.unique(rank, "jsonl.zst")) as writer:
        for document in kept:
            tally.keep(EXACT, bytes_of(document))
            writer.add(document)
    if plan.options.deduplicate.near:
        _sign(plan, rank, kept)
    write_json(plan.stats("unique", rank), {"tally": tally.to_table()})


def _distinct(plan: Plan, bucket: int, tally: Tally) -> list[Document]:
    """Return the bucket's documents by hash, of equal ones the one that is preferred, if exact duplicates go."""
    best: dict[bytes, Document] = {}
    others: list[tuple[bytes, Document]] = []
    for line in bucket_lines(plan.collected_files(), bucket):
        document = from_json(line)
        key = key_of(document)
        known = best.setdefault(key, document)
        if known is document:
            continue
        if not plan.options.deduplicate.exact:
            others.append((key, document))
            continue
        first, second = sorted((known, document), key=_preference)
        best[key] = first
        tally.drop(EXACT, DUPLICATE, second.path)
    every = [*best.items(), *others]
    every.sort(key=lambda item: (item[0], to_json(item[1]) if others else ""))
    return [document for _, document in every]


def _preference(document: Document) -> tuple[object, ...]:
    """Return the order in which equal documents are preferred: stars, newest, path, id; the rest decides ties."""
    date = (*(-ord(letter) for letter in document.date), 1)
    return -document.stars, date, document.path, document.id, to_json(document)


def _sign(plan: Plan, bucket: int, documents: list[Document]) -> None:
    """Write the signatures uint32 [k, permutations], each band's keys in order and whose they are, and the facts."""
    rows, matrix = signatures((one.content for one in documents), plan.options.deduplicate.permutations)
    keys = np.stack([band_keys(matrix, band, plan.rows) for band in range(plan.bands)])
    order = np.argsort(keys, axis=1, kind="stable")
    write_array(plan.unique(bucket, "matrix.npy"), matrix)
    write_array(plan.unique(bucket, "keys.npy"), np.take_along_axis(keys, order, axis=1))
    write_array(plan.unique(bucket, "order.npy"), order.astype(np.uint32))
    with replacing(plan.unique(bucket, "facts.jsonl")) as file:
        for row in rows.tolist():
            one = documents[row]
            facts: Facts = (row, one.stars, one.date, len(one.content), one.path, one.id)
            file.write(json.dumps(facts).encode() + b"\n")


def read_facts(path: Path, wanted: np.ndarray) -> list[Facts]:
    """Return the facts of the signatures `wanted`, ascending."""
    chosen = set(wanted.tolist())
    with path.open("rb") as file:
        return [tuple(json.loads(line)) for number, line in enumerate(file) if number in chosen]
