"""Where the model's parts sit: virtual stages on pipeline stages, and layers on virtual stages.

The model is cut into `num_stages * num_chunks` contiguous parts, the virtual stages; a pipeline stage holds one of them
per chunk. Looped (Narayanan et al. 2021, section 2.2): virtual stage u is chunk u // p of stage u % p. V (Qi et al.
2023, section 6): chunk 0 goes down the stages and chunk 1 comes back up, so the first stage holds both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Placement:
    """Which stage and chunk each virtual stage is. Raises ValueError for counts below 1, or a V without two chunks."""

    num_stages: int
    num_chunks: int = 1
    is_v: bool = False

    def __post_init__(self) -> None:
        if self.num_stages < 1 or self.num_chunks < 1:
            raise ValueError(f"a placement needs stages and chunks, not {self.num_stages} and {self.num_chunks}")
        if self.is_v and self.num_chunks != 2:
            raise ValueError(f"a V has 2 chunks per stage, not {self.num_chunks}")

    @property
    def num_virtual_stages(self) -> int:
        """Parts that the model is cut into."""
        return self.num_stages * self.num_chunks

    @property
    def first_stage(self) -> int:
        """The pipeline stage that holds the embedding."""
        return self.at(0)[0]

    @property
    def last_stage(self) -> int:
        """The pipeline stage that holds the head."""
        return self.at(self.num_virtual_stages - 1)[0]

    def at(self, virtual_stage: int) -> tuple[int, int]:
        """(stage, chunk) of a virtual stage. Raises ValueError outside 0 .. num_virtual_stages - 1."""
        if not 0 <= virtual_stage < self.num_virtual_stages:
            raise ValueError(f"virtual stage {virtual_stage} is outside 0 .. {self.num_virtual_stages - 1}")
        chunk, stage = divmod(virtual_stage, self.num_stages)
        return (self.num_stages - 1 - stage if self.is_v and chunk else stage), chunk

    def virtual_stage(self, stage: int, chunk: int) -> int:
        """The inverse of `at`. Raises ValueError for a stage or chunk that is not there."""
        if not (0 <= stage < self.num_stages and 0 <= chunk < self.num_chunks):
            raise ValueError(f"no chunk {chunk} of stage {stage} in {self.num_stages} stages of {self.num_chunks}")
        return chunk * self.num_stages + (self.num_stages - 1 - stage if self.is_v and chunk else stage)

    def previous(self, stage: int, chunk: int) -> tuple[int, int] | None:
        """(stage, chunk) whose activations come in here; None at the embedding."""
        at = self.virtual_stage(stage, chunk)
        return self.at(at - 1) if at > 0 else None

    def next(self, stage: int, chunk: int) -> tuple[int, int] | None:
        """(stage, chunk) that takes the activations of this one; None at the head."""
        at = self.virtual_stage(stage, chunk)
        return self.at(at + 1) if at < self.num_virtual_stages - 1 else None


def split_layers(
    num_layers: int, placement: Placement, embedding_cost: float = 0.0, head_cost: float = 0.0
) -> tuple[range, ...]:
    """Contiguous ranges of layers, one per virtual stage, so that pipeline stages have loads as equal as can be.

    `embedding_cost` and `head_cost` are those of the two ends in units of one layer's. The largest load of a stage is
    the least possible with a layer in every virtual stage; between equals, chunks of one stage are kept equal, and the
    first and the last virtual stage get the smaller share. Raises ValueError with fewer layers than virtual stages.
    """
    parts = placement.num_virtual_stages
    if num_layers < parts:
        raise ValueError(f"{num_layers} layers cannot be split over {parts} virtual stages; every one needs a layer")
    own = [1.0] * parts
    own[0] += embedding_cost
    own[-1] += head_cost
    counts, stage_of = [1] * parts, [placement.at(part)[0] for part in range(parts)]
    loads = [0.0] * placement.num_stages
    for part, stage in enumerate(stage_of):
        loads[stage] += own[part]
    for _ in range(num_layers - parts):  # to the least loaded: for equal items that minimises the largest load
        part = min(range(parts), key=lambda part: (loads[stage_of[part]], own[part], part in (0, parts - 1), part))
        counts[part] += 1
        own[part] += 1.0
        loads[stage_of[part]] += 1.0
    return tuple(range(start, stop) for start, stop in pairwise(accumulate(counts, initial=0)))
