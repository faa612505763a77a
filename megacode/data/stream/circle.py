"""The tokens of a source's shards, one behind the other in a circle, and the documents that lie at a place of it.

Opening takes a few numbers of every shard; a place is found by binary search in the shards' own indexes, which stay
on the disk. So a source of 10^12 tokens is open at once and takes no memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader
from megacode.data.stream.sample import Span


class TokenCircle:
    """The shards of one source in order; `tokens` in all."""

    def __init__(self, shards: Sequence[ShardReader]) -> None:
        """Raises DataError when there is no shard, or no token in any."""
        self.shards = tuple(shards)
        self._ends = list(accumulate(shard.tokens for shard in shards))
        if not self._ends or not self._ends[-1]:
            names = ", ".join(str(shard.prefix) for shard in shards) or "no shard"
            raise DataError(f"{names}: holds no tokens; tokenize documents first")
        self.tokens = self._ends[-1]

    def spans(self, place: int, count: int) -> list[Span]:
        """Return the documents' parts that make up the `count` tokens from `place` on, around the circle."""
        found = []
        while count:
            place %= self.tokens
            shard = bisect_right(self._ends, place)
            reader = self.shards[shard]
            offset = place - (self._ends[shard] - reader.tokens)
            document = reader.document_at(offset)
            while count and document < reader.documents:
                start = offset - reader.start(document)
                stop = min(int(reader.lengths[document]), start + count)
                found.append(Span(shard, document, start, stop))
                part = stop - start
                count, offset, place, document = count - part, offset + part, place + part, document + 1
        return found
