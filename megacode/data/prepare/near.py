"""Step 4: one document for each cluster of near duplicates (MinHash, Jaccard similarity at a threshold of 0.7).

Candidates that share a band are compared by their signatures; pairs at or above the threshold are joined, and what
hangs together is a cluster. Of a cluster the longest document stays, then the first by path: the same one whatever
order the documents came in.

Limits: a cluster's ends can be less alike than the threshold, as in StarCoder's own deduplication.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megacode.console import progress
from megacode.data.documents import Document
from megacode.data.prepare.minhash import bands_and_rows, buckets, signatures
from megacode.data.prepare.report import StepReport, step_report


class Clusters:
    """Union-find over [0, count), each set named by its lowest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """Return the lowest member of `item`'s set."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, one: int, other: int) -> None:
        """Make one set of two."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low


def drop_near_duplicates(
    documents: Sequence[Document], threshold: float, permutations: int
) -> tuple[list[Document], StepReport]:
    """Return the documents less all but one of each cluster, sorted as given, and the step's report."""
    rows, matrix = signatures([document.content for document in documents], permutations)
    clusters = cluster(matrix, threshold)
    best: dict[int, int] = {}
    roots = [clusters.find(row) for row in range(rows.size)]
    for root, index in zip(roots, rows.tolist(), strict=True):
        best[root] = min(best.get(root, index), index, key=lambda one: _preference(documents[one]))
    lost = {index: best[root] for root, index in zip(roots, rows.tolist(), strict=True) if best[root] != index}
    kept = [document for index, document in enumerate(documents) if index not in lost]
    reason = f"at least {threshold:g} like another document"
    dropped = [(reason, f"{documents[index].path} (like {documents[stays].path})") for index, stays in lost.items()]
    return kept, step_report("near duplicates", kept, dropped)


def cluster(matrix: np.ndarray, threshold: float) -> Clusters:
    """Return the clusters of signatures uint32 [k, permutations] whose estimated similarity reaches `threshold`."""
    clusters = Clusters(matrix.shape[0])
    bands, rows = bands_and_rows(threshold, matrix.shape[1])
    with progress("near duplicates") as advance:
        for group in buckets(matrix, bands, rows):
            _join_alike(group, matrix, threshold, clusters)
            advance(1)
    return clusters


def _join_alike(group: np.ndarray, matrix: np.ndarray, threshold: float, clusters: Clusters) -> None:
    """Join the rows of `group` that are alike; pairs that hang together already are not compared again."""
    for place, row in enumerate(group[:-1].tolist()):
        roots = np.array([clusters.find(other) for other in group.tolist()])
        if (roots == roots[0]).all():
            return
        others = group[place + 1 :][roots[place + 1 :] != roots[place]]
        alike = (matrix[others] == matrix[row]).mean(axis=1) >= threshold
        for other in others[alike].tolist():
            clusters.join(row, other)


def _preference(document: Document) -> tuple[int, str, str]:
    """Return the order in which a cluster's members are preferred: longest, then by path and id."""
    return -len(document.content), document.path, document.id
