"""Bytes of activations that the blocks keep for backward (Korthikanti et al. 2022, sections 4 and 5), on one rank.

Counted per token, with w bytes an element, under sequence parallelism; what sees the whole sequence is marked by s:

    none        inputs of the norms 2h/tp, their outputs 2h/tp, queries and attended s h/tp each,
                keys and values s, the MLP's f/tp before and after GELU s
    selective   the same without the norms' outputs and without the output of GELU
    full        the block's input h/tp; while it runs again in backward, one block as under none

Not quite their formula: attention keeps no matrix of probabilities, and the dropout after it and after the MLP keeps a
mask only where there is one. The embedding, the head and its logits are not counted.
"""

from __future__ import annotations

from megacode.config.schema import Recompute, RunConfig
from megacode.layout.proofs import peak_live_micro_batches
from megacode.layout.schedules import make_schedule
from megacode.plan.stages import layers_of, placement_of


def block_bytes(config: RunConfig, recompute: Recompute) -> int:
    """Bytes that one block keeps of one micro-batch on each tensor-parallel rank."""
    model, tp = config.model, config.parallel.tp
    width = {"bf16": 2, "fp16": 2, "fp32": 4}[config.train.precision]
    tokens = config.train.micro_batch * config.data.sequence
    if recompute == "full":
        return width * tokens * model.hidden // tp
    is_cut = model.kv_heads % tp == 0
    keys = (model.kv_heads // tp if is_cut else model.kv_heads) * model.head_width
    elements = 2 * model.hidden // tp + 2 * model.hidden // tp + 2 * keys + model.ffn // tp
    if recompute == "none":
        elements += 2 * model.hidden // tp + model.ffn // tp
    extra = 2 * 2 * 4 // tp + 4 * model.heads // tp  # fp32: mean and deviation of two norms, log-sum of each head
    if model.hidden_dropout > 0.0:
        extra += 2 * model.hidden // tp
    angles = 0
    if model.positions == "rotary":
        elements += keys if is_cut else model.head_width  # turned keys lie beside those that were not
        angles = config.data.sequence * 2 * 4 * model.head_width  # cosine and sine, fp32, for queries and for keys
    return tokens * (width * elements + extra) + angles


def activation_bytes_on_rank(config: RunConfig, stage: int) -> int:
    """The most bytes that the blocks of pipeline stage `stage` keep at once on each of its ranks.

    Every micro-batch that is on its way counts; a block that is run again counts once more, as if nothing were
    recomputed. Raises ValueError for a stage outside the pipeline.
    """
    parallel, train = config.parallel, config.train
    if not 0 <= stage < parallel.pp:
        raise ValueError(f"stage {stage} is outside a pipeline of {parallel.pp} stages")
    placement = placement_of(parallel)
    layers = layers_of(config.model, parallel)
    chunks = [layers[placement.virtual_stage(stage, chunk)] for chunk in range(placement.num_chunks)]
    kept = sum(block_bytes(config, train.recompute_in(place)) for chunk in chunks for place in range(len(chunk)))
    again = block_bytes(config, "none") if train.recompute == "full" else 0
    held = peak_live_micro_batches(make_schedule(parallel.schedule, placement, config.micro_batches), stage)
    return kept * held // placement.num_chunks + again
