"""Near duplicates: found at the promised rates, the same in any order, and what stays of each cluster."""

from __future__ import annotations

import importlib
import random
import re
import time
import tracemalloc
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.prepare.near.bands import band_keys, bands_and_rows
from megacode.data.prepare.near.clusters import clusters, keepers
from megacode.data.prepare.near.in_memory import near_labels
from megacode.data.prepare.near.pairs import pairs_in_band
from megacode.data.prepare.near.signatures import signatures

SIGNATURES = importlib.import_module("megacode.data.prepare.near.signatures")
PAIRS = importlib.import_module("megacode.data.prepare.near.pairs")


def words(seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    return ["".join(source.choices("abcdefghijklmnop_0123", k=source.choice((2, 5, 9, 20)))) for _ in range(count)]


def grams(text: str) -> set[tuple[str, ...]]:
    found = re.findall("[A-Za-z_0-9]+", text)
    return {tuple(found[n : n + 5]) for n in range(len(found) - 4)}


def jaccard(one: str, other: str) -> float:
    left, right = grams(one), grams(other)
    return len(left & right) / len(left | right)


def edited(text: list[str], changes: int, seed: int) -> list[str]:
    """`text` with so many words replaced, each far enough from the next to spoil five 5-grams of its own."""
    text = list(text)
    step = len(text) // (changes + 1)
    for number in range(changes):
        text[(number + 1) * step] = f"changed{seed}_{number}"
    return text


def components(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The lowest member of each one's component, one edge at a time."""
    labels = list(range(count))
    for one, other in edges:
        low, high = sorted((labels[one], labels[other]))
        labels = [low if label == high else label for label in labels]
    return labels


@pytest.mark.parametrize(("similarity", "changes"), [(0.85, 7), (0.5, 28)])
def test_recall_and_false_merges(similarity: float, changes: int) -> None:
    """Of 400 pairs at least 95 % are joined at Jaccard 0.85 and at most 1 % at 0.5, and never strangers."""
    texts = []
    for seed in range(400):
        base = words(seed, 430)
        texts += [" ".join(base), " ".join(edited(base, changes, seed))]
    exact = [jaccard(texts[n], texts[n + 1]) for n in range(0, 800, 2)]
    assert all(abs(value - similarity) < 0.02 for value in exact)
    rows, matrix = signatures(texts, 256)
    assert rows.tolist() == list(range(800))
    labels = near_labels(matrix, 0.7).reshape(400, 2)
    joined = labels[:, 0] == labels[:, 1]
    assert joined.mean() >= 0.95 if similarity > 0.7 else joined.mean() <= 0.01
    assert len(np.unique(labels)) == 800 - joined.sum()


def test_clusters_are_those_of_exact_similarity() -> None:
    """Where all similarities are far from the threshold, the clusters are those of comparing all pairs exactly."""
    texts = []
    for seed in range(25):
        base = words(seed, 300)
        texts += [" ".join(base), "\n".join(edited(base, 1, 1)), "+".join(edited(base, 2, 2)), " ".join(base[:120])]
    near = {pair: jaccard(texts[pair[0]], texts[pair[1]]) for pair in combinations(range(100), 2)}
    assert all(value > 0.9 or value < 0.45 for value in near.values())
    expected = components(100, [pair for pair, value in near.items() if value > 0.7])
    assert len(set(expected)) == 50
    assert near_labels(signatures(texts, 256)[1], 0.7).tolist() == expected


FAMILIES = tuple(
    text
    for seed in range(8)
    for base in [words(seed, 250)]
    for text in (" ".join(base), " ".join(edited(base, 2, 1)), " ".join(base[:-9]), " ".join(words(seed + 99, 60)))
)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(len(FAMILIES))), st.integers(40, 10_000))
def test_same_result_for_any_order_and_batches(order: list[int], batch: int) -> None:
    """Signatures made in batches of any size, long documents in pieces, and documents in any order."""
    with pytest.MonkeyPatch.context() as patch:
        whole = signatures(FAMILIES, 256)[1]
        patch.setattr(SIGNATURES, "BATCH_CHARACTERS", batch)
        rows, matrix = signatures((FAMILIES[n] for n in order), 256)
        assert rows.tolist() == list(range(len(order))) and np.array_equal(matrix, whole[order])
    labels = near_labels(matrix, 0.7)
    found = {frozenset(order[n] for n in np.flatnonzero(labels == label)) for label in labels}
    assert found == {
        members for n in range(0, len(FAMILIES), 4) for members in (frozenset((n, n + 1, n + 2)), frozenset((n + 3,)))
    }


@settings(max_examples=200, deadline=None)
@given(st.text(st.one_of(st.sampled_from("ab_9 -é\n日"), st.characters(codec=None)), max_size=120))
def test_words_are_runs_of_letters_digits_and_underscores(text: str) -> None:
    """Any other character, a lone surrogate too, only separates."""
    found = re.findall("[A-Za-z_0-9]+", text)
    rows, matrix = signatures([text, " ".join(found)], 32)
    assert rows.tolist() == ([0, 1] if len(found) >= 5 else [])
    assert not rows.size or np.array_equal(matrix[0], matrix[1])


def test_every_character_counts() -> None:
    """One other character anywhere, in words of up to 130 characters, is another 5-gram."""
    base = "a bb " + "c" * 8 + " " + "d" * 17 + " " + "e" * 64 + "f" * 66
    texts = [base[:place] + "x" + base[place + 1 :] for place in range(len(base)) if base[place] != " "] + [base]
    assert len({tuple(row) for row in signatures(texts, 64)[1].tolist()}) == len(texts)
    swapped = [
        "abcdefg1 abcdefg2 c d e",
        "abcdefg2 abcdefg1 c d e",
        "abcdefg1 abcdefg1 c d e",
        "e d c abcdefg1 abcdefg2",
    ]
    assert len({tuple(row) for row in signatures(swapped, 64)[1].tolist()}) == 4


def test_signatures_estimate_jaccard() -> None:
    """The estimate is within five standard deviations of the exact Jaccard similarity of 5-gram sets."""
    base = words(1, 2000)
    texts = [" ".join(base[:cut] + words(cut, 2000 - cut)) for cut in (2000, 1900, 1700, 1400, 1000, 300, 0)]
    texts.append(" ".join(word if n % 5 else f"new{n}" for n, word in enumerate(base)))  # alike in words, in no 5-gram
    rows, matrix = signatures(texts, 1024)
    assert rows.tolist() == list(range(8)) and matrix.shape == (8, 1024) and matrix.dtype == np.uint32
    for number in range(8):
        exact = jaccard(texts[0], texts[number])
        estimate = float((matrix[0] == matrix[number]).mean())
        assert abs(estimate - exact) <= 5 * (exact * (1 - exact) / 1024) ** 0.5 + 0.002


@pytest.mark.parametrize("separator", [" ", ""])
def test_memory_does_not_grow_with_a_document(separator: str) -> None:
    """A document of 20 MB, and one that is a single word of 20 MB, take a few MB besides the text."""
    text = separator.join(f"{number:07x}" for number in range(20_000_000 // 8))
    tracemalloc.start()
    try:
        rows, matrix = signatures([text, "a b c d e"], 256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows.tolist() == [0, 1] and matrix.shape == (2, 256)
    assert peak < 12e6


def test_no_document_and_no_5_gram() -> None:
    for contents in ([], ["", "a b c d", "\n"]):
        rows, matrix = signatures(contents, 64)
        assert rows.shape == (0,) and matrix.shape == (0, 64)
        assert near_labels(matrix, 0.7).shape == (0,)
    nothing = clusters(0, np.zeros((0, 2), dtype=np.int64))
    assert keepers(nothing, nothing, np.array([], dtype=np.str_), nothing).shape == (0,)


def test_bands_are_the_papers() -> None:
    assert bands_and_rows(0.7, 256) == (25, 10)


def test_band_keys_are_equal_where_the_band_is(tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).integers(0, 3, (2000, 12), dtype=np.uint32)
    matrix.tofile(tmp_path / "matrix")
    stored = np.memmap(tmp_path / "matrix", dtype=np.uint32, mode="r", shape=matrix.shape)
    for band in range(3):
        keys = band_keys(stored, band, 4)
        _, exact = np.unique(matrix[:, band * 4 : band * 4 + 4], axis=0, return_inverse=True)
        assert keys.dtype == np.uint64
        assert (
            len(np.unique(keys)) == len(np.unique(exact)) == len(set(zip(keys.tolist(), exact.tolist(), strict=True)))
        )


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(16, 0.7), (70, 0.5), (64, 0.9), (130, 0.8)]),
    st.sampled_from([(512, 16_384, 10**6), (2, 5, 3), (4, 16_384, 10)]),
)
def test_pairs_of_a_band_hang_together_like_all_pairs(
    seed: int, shape: tuple[int, float], limits: tuple[int, int, int]
) -> None:
    """Chains, equal signatures and strangers that share a key; groups taken together, alone, and in parts."""
    source = np.random.default_rng(seed)
    permutations, threshold = shape
    matrix = source.integers(0, 2**32, (40, permutations), dtype=np.uint32)
    for row in range(1, 40):  # most are an earlier one with some places changed: near the threshold, or equal
        parent = matrix[source.integers(0, row)]
        share = source.choice([1.0, 0.0, (1 - threshold) * 0.8, (1 - threshold) * 1.2])
        matrix[row] = np.where(source.random(permutations) < share, matrix[row], parent)
    keys = source.integers(0, source.choice([1, 3, 20]), 40).astype(np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(("LARGE", "ROWS_AT_ONCE", "CANDIDATES_AT_ONCE"), limits, strict=True):
            patch.setattr(PAIRS, name, limit)
        edges = pairs_in_band(keys, matrix, threshold)
        assert np.array_equal(edges, pairs_in_band(keys, lambda rows: matrix[rows], threshold))
    pairs = [
        (one, other)
        for one, other in combinations(range(40), 2)
        if keys[one] == keys[other] and (matrix[one] == matrix[other]).mean() >= threshold
    ]
    assert edges.dtype == np.int64 and set(map(tuple, edges.tolist())) <= set(pairs)
    assert len(edges) == 40 - len(set(components(40, pairs)))  # a forest
    assert clusters(40, edges).tolist() == components(40, pairs)


@pytest.mark.parametrize(
    ("count", "copies", "changed", "left"),
    [(20_000, 20_000, 0.0, 1), (20_000, 1, 0.08, 1), (20_000, 10, 0.5, 2000), (12_000, 1, 0.5, 12_000)],
)
def test_a_large_group_is_cheap(count: int, copies: int, changed: float, left: int) -> None:
    """A group takes under two seconds of one core: of one signature, all alike, ten of each, or none like another."""
    source = np.random.default_rng(1)
    matrix = np.tile(source.integers(0, 2**32, 256, dtype=np.uint32), (count // copies, 1))
    places = source.random(matrix.shape) < changed
    matrix[places] = source.integers(0, 2**32, places.sum(), dtype=np.uint32)
    matrix = np.tile(matrix, (copies, 1))
    start = time.process_time()
    edges = pairs_in_band(np.zeros(count, dtype=np.uint64), matrix, 0.7)
    labels = clusters(count, edges)
    assert time.process_time() - start < 2
    assert len(edges) == count - left and (labels == np.arange(count) % left).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_clusters_are_connected_components(edges: list[tuple[int, int]]) -> None:
    assert clusters(31, np.array(edges, dtype=np.int64).reshape(-1, 2)).tolist() == components(31, edges)


def test_clusters_of_shapes_that_are_slow_to_join() -> None:
    """A star around the highest, paths in order and in any order, and a comb are one cluster in few rounds."""
    count = 100_000
    path = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    star = np.stack([np.arange(count - 1), np.full(count - 1, count - 1)], axis=1)
    comb = np.stack([np.arange(count - 2), (np.arange(count - 2) + count // 2) % count], axis=1)
    start = time.process_time()
    for edges in (path, path[::-1], star, np.random.default_rng(1).permutation(count)[path], path ^ 1):
        assert not clusters(count, edges).any()
    assert (clusters(count, comb) == np.arange(count) % (count // 2)).all()
    assert time.process_time() - start < 5


@pytest.mark.slow
def test_ten_million_edges_in_seconds() -> None:
    count = 10_000_000
    order = np.random.default_rng(1).permutation(count)
    edges = np.stack([order, order - order % 4], axis=1)
    start = time.process_time()
    labels = clusters(count, edges)
    assert time.process_time() - start < 20
    assert (labels == np.arange(count) - np.arange(count) % 4).all()


ROWS = st.tuples(st.integers(0, 2), st.sampled_from(["", "2020-01-01", "2024-05-06"]), st.integers(1, 2))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), ROWS), min_size=1, max_size=30), st.randoms())
def test_who_stays(documents: list[tuple[int, tuple[int, str, int]]], source: random.Random) -> None:
    """The most stars, then the newest, then the longest, then the first by path, whatever the order."""
    paths = source.sample(range(100), len(documents))
    family, rows = [one for one, _ in documents], [row for _, row in documents]
    labels = np.array([family.index(one) for one in family])
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    expected = [
        min(
            (other for other in range(len(rows)) if family[other] == family[one]),
            key=lambda n: (-rows[n][0], [-ord(c) for c in rows[n][1].ljust(10)], -rows[n][2], paths[n]),
        )
        for one in range(len(rows))
    ]
    assert keepers(labels, *columns, np.array(paths)).tolist() == expected
    days = np.array([-1 if not date else int(date.replace("-", "")) for date in columns[1]])
    assert keepers(labels, columns[0], days, columns[2], np.array([f"{n:02}" for n in paths])).tolist() == expected
    first = keepers(labels, columns[0] * 0, days * 0, columns[2] * 0)
    assert first.tolist() == labels.tolist()
