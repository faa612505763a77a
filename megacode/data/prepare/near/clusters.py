"""What hangs together, and which document of each cluster stays.

Clusters are the connected components of the near-duplicate pairs, found on whole arrays: every root is hung under the
lowest root that it has an edge to, then all paths are halved until flat (Shiloach and Vishkin 1982). Parents are lower
than their children throughout, so the root that is left of a cluster is its lowest member, whatever the edges' order.

Limits: a cluster's ends can be less alike than the threshold, as in StarCoder's own deduplication.
"""

from __future__ import annotations

import numpy as np


def clusters(count: int, edges: np.ndarray) -> np.ndarray:
    """Return for each of [0, count) the lowest member of its cluster, int64 [count].

    `edges` int64 [p, 2], in any order and direction, repeats and loops allowed.
    """
    labels = np.arange(count, dtype=np.int64)
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    touched = np.zeros(count, dtype=bool)
    touched[edges] = True
    members = np.flatnonzero(touched)  # the work grows with these, not with `count`
    number = np.zeros(count, dtype=np.int64)
    number[members] = np.arange(members.size)
    labels[members] = members[_roots(members.size, number[edges[:, 0]], number[edges[:, 1]])]
    return labels


def keepers(
    labels: np.ndarray,
    stars: np.ndarray,
    dates: np.ndarray,
    lengths: np.ndarray,
    ties: np.ndarray | None = None,
) -> np.ndarray:
    """Return for each document which one of its cluster stays, int64 [n]; a document stays where that is itself.

    The one with the most `stars`, then the newest of `dates`, then the greatest of `lengths`, then the lowest of
    `ties`, or the first where that is None. All are arrays [n], `labels` from `clusters`; `dates` and `ties` may be
    numbers or texts, each of one kind that sorts (ISO 8601 dates, all in one form; "" is older than any).
    """
    keeper = np.arange(labels.size, dtype=np.int64)
    members = np.flatnonzero(np.bincount(labels, minlength=labels.size)[labels] > 1)
    if not members.size:
        return keeper
    ties = keeper if ties is None else ties
    falling = [-_ranks(values[members]) for values in (lengths, dates, stars)]
    order = members[np.lexsort((_ranks(ties[members]), *falling, labels[members]))]
    ordered = labels[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    keeper[order] = order[begins][np.cumsum(begins) - 1]
    return keeper


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each of `values` among the distinct ones, int64 [n]: a number that can be negated."""
    return np.unique(values, return_inverse=True)[1]


def _roots(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each of [0, count) the lowest that it is connected with by the edges `one` to `other`."""
    parents = np.arange(count)
    while one.size:
        np.minimum.at(parents, np.maximum(one, other), np.minimum(one, other))
        while True:
            grandparents = parents[parents]
            if np.array_equal(grandparents, parents):
                break
            parents = grandparents
        one, other = parents[one], parents[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parents
