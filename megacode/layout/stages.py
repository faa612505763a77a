"""Which transformer blocks each pipeline stage owns."""

from __future__ import annotations

from itertools import pairwise


def split_layers(num_layers: int, num_stages: int) -> tuple[range, ...]:
    """Contiguous ranges of layers, one per stage, as equal as can be.

    Where they cannot be equal, the first stage (which also embeds) and the last (which also holds the head) get the
    smaller share, inner stages the larger one. Raises ValueError with fewer layers than stages.
    """
    if not 1 <= num_stages <= num_layers:
        raise ValueError(f"{num_layers} layers cannot be split over {num_stages} stages; every stage needs one")
    share, left_over = divmod(num_layers, num_stages)
    counts = [share] * num_stages
    inner_first = [*range(1, num_stages - 1), 0, num_stages - 1]
    for stage in inner_first[:left_over]:
        counts[stage] += 1
    bounds = [sum(counts[:stage]) for stage in range(num_stages + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(bounds))
