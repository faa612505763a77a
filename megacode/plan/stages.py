"""Which layers each stage of a configured pipeline holds, weighted by what its ends cost."""

from __future__ import annotations

from megacode.config.schema import ModelConfig, ParallelConfig
from megacode.layout.schedules import make_placement
from megacode.layout.stages import Placement, split_layers
from megacode.plan.flops import Attention, flops_per_token


def placement_of(parallel: ParallelConfig) -> Placement:
    """Where the chunks of the configured schedule sit."""
    return make_placement(parallel.schedule, parallel.pp, parallel.chunks)


def layers_of(model: ModelConfig, parallel: ParallelConfig) -> tuple[range, ...]:
    """The layers of each virtual stage: `parallel.stage_layers`, or the most even split.

    The head counts as the layers that its matmul is worth: v h FLOPs against those of a block's matmuls. The attention
    matrix is left out, so that a model has one split whatever the sequence; looking tokens up costs nothing.
    Raises ValueError where the layers don't fit the stages.
    """
    placement = placement_of(parallel)
    if parallel.stage_layers:
        counts = parallel.stage_layers
        if len(counts) != placement.num_virtual_stages or sum(counts) != model.layers:
            raise ValueError(f"parallel.stage_layers {list(counts)} does not split {model.layers} layers")
        return tuple(range(sum(counts[:at]), sum(counts[: at + 1])) for at in range(len(counts)))
    return split_layers(model.layers, placement, head_cost=head_cost(model))


def head_cost(model: ModelConfig) -> float:
    """The FLOPs of the head's matmul in units of those of one block's matmuls."""
    head = 6.0 * model.vocab * model.hidden
    blocks = flops_per_token(model, 1, Attention.NONE) - head
    return head * model.layers / blocks
