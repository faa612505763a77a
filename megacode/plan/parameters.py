"""How many parameters a model has, exactly, in all and on each rank.

With hidden h, head width d, k KV heads, MLP width f, L layers, V tokens, P positions, biases and a tied head:
N = L [(h + 2kd)(h + 1) + h(h + 1) + (h + 1) f + (f + 1) h + 4h] + V h + P h + 2h.
With k = 1 and f = 4h this gives the published StarCoder totals (arXiv 2305.06161), 15,517,456,384 for the 15.5B.
Rotary positions have no P h, and a head that is not tied has another V h: StarCoder2's 15,957,889,024.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from megacode.config.schema import ModelConfig, ParallelConfig
from megacode.plan.stages import layers_of, placement_of


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part. `head` is an untied head; `head_copy` the last stage's copy of a tied embedding, 0 in the
    whole model.
    """

    token_embedding: int
    position_embedding: int
    attention: int
    mlp: int
    norms: int
    head: int = 0
    head_copy: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


def count_parameters(model: ModelConfig) -> ParameterCount:
    """The parameters of the whole model, tied ones once."""
    return count_on_rank(model, ParallelConfig(), stage=0)


def count_on_rank(model: ModelConfig, parallel: ParallelConfig, stage: int) -> ParameterCount:
    """The parameters that every tensor-parallel rank of pipeline stage `stage` holds; they all hold equally many.

    Cut over tp: the rows of embedding and head, query heads, the MLP's width, and KV heads where tp divides them;
    otherwise every rank holds all KV heads. Copied: learned positions, norms, and the biases that are added after a
    sum over tp.
    Raises ValueError for a stage outside 0 .. pp - 1 or sizes that tp does not divide.
    """
    if not 0 <= stage < parallel.pp:
        raise ValueError(f"stage {stage} is outside a pipeline of {parallel.pp} stages")
    tp, hidden = parallel.tp, model.hidden
    queries = _share("heads", model.heads, tp) * model.head_width
    ffn, rows = _share("ffn", model.ffn, tp), _share("vocab", model.vocab, tp)
    keys = (model.kv_heads // tp if model.kv_heads % tp == 0 else model.kv_heads) * model.head_width
    placement, split = placement_of(parallel), layers_of(model, parallel)
    layers = sum(len(split[placement.virtual_stage(stage, chunk)]) for chunk in range(placement.num_chunks))
    first, last = stage == placement.first_stage, stage == placement.last_stage
    return ParameterCount(
        token_embedding=rows * hidden if first else 0,
        position_embedding=model.context * hidden if first and model.positions == "learned" else 0,
        attention=layers * ((queries + 2 * keys) * (hidden + 1) + queries * hidden + hidden),
        mlp=layers * (ffn * (hidden + 1) + ffn * hidden + hidden),
        norms=layers * 4 * hidden + (2 * hidden if last else 0),
        head=rows * hidden if last and not model.tied else 0,
        head_copy=rows * hidden if last and not first and model.tied else 0,
    )


def fullest_rank(model: ModelConfig, parallel: ParallelConfig) -> ParameterCount:
    """The count of the stage whose ranks hold the most parameters."""
    stages = (count_on_rank(model, parallel, stage) for stage in range(parallel.pp))
    return max(stages, key=lambda count: count.total)


def _share(name: str, whole: int, tp: int) -> int:
    if whole % tp:
        raise ValueError(f"model.{name} = {whole} cannot be cut into {tp} equal parts")
    return whole // tp
