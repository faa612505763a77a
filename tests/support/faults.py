"""The faults that engines really had, planted into a rank before it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from megacode.config.schema import RunConfig
from megacode.kernels import torch_ops
from megacode.layers.spec import ParamSpec
from megacode.model.stage import Stage
from megacode.optim import reduction
from megacode.optim.adamw import ShardedAdamW
from megacode.optim.flat import Bucket
from megacode.optim.reduction import BucketReduction
from megacode.optim.tied import TiedWeight
from megacode.parallel.collectives import Arriving
from megacode.pipeline.runner import Runner
from megacode.prove.outcome import RankOutcome, train_rank
from megacode.train import step
from megacode.train.assemble import Run


def faulty(plant: Callable[[], None]) -> Callable[..., RankOutcome]:
    """A worker for `compute` that trains with the fault."""
    return partial(_train_with, plant)


def _train_with(plant: Callable[[], None], rank: int, world_size: int, init: str, config: RunConfig) -> RankOutcome:
    if world_size > 1:
        plant()
    return train_rank(rank, world_size, init, config)


def _leave_out_of_tp_sum(is_left_out: Callable[[ParamSpec], bool]) -> None:
    whole_sum = reduction.all_sum_
    original = BucketReduction._start

    def start(self: BucketReduction, bucket: Bucket) -> None:
        segments = [segment for segment in bucket.segments if is_left_out(segment.spec)]
        kept = [self._flat[segment.start : segment.stop].clone() for segment in segments]

        def sum_but_keep(x: Tensor, group: Any) -> Tensor:
            whole_sum(x, group)
            for segment, own in zip(segments, kept, strict=True):
                self._flat[segment.start : segment.stop].copy_(own)
            return x

        reduction.all_sum_ = sum_but_keep
        original(self, bucket)
        reduction.all_sum_ = whole_sum

    BucketReduction._start = start  # type: ignore[method-assign]


def missing_key_value_sum() -> None:
    """StarCoder's own: gradients of shared keys and values are not summed over tensor-parallel ranks."""
    _leave_out_of_tp_sum(lambda spec: "key_value" in spec.name)


def missing_norm_sum() -> None:
    """LayerNorm gradients are not summed under sequence parallelism."""
    _leave_out_of_tp_sum(lambda spec: "norm" in spec.name)


def doubled_norm() -> None:
    """Copied parameters are counted by every rank that has a copy."""

    ShardedAdamW._counted = lambda self: list(self._shards)  # type: ignore[method-assign]


def dropped_tied_gradient() -> None:
    """The last stage's part of the embedding's gradient is lost."""
    TiedWeight.sum_gradients = lambda self: None  # type: ignore[method-assign]


def stale_tied_weight() -> None:
    """The last stage keeps its old embedding after an update."""
    TiedWeight.start_copy_from_owner = lambda self: Arriving(lambda: self.weight)  # type: ignore[method-assign]


def wrong_scale_with_replicas() -> None:
    """The loss is divided by this replica's tokens instead of all replicas'."""
    honest = step.loss_scale

    def loss_scale(run: Run, weights: Any, scaling: float = 1.0) -> Any:
        scale = honest(run, weights, scaling)
        return lambda: scale() * run.groups.topology.dp

    step.loss_scale = loss_scale


def shifted_window() -> None:
    """The sliding window has one key too many: the token itself is not counted."""
    honest = torch_ops.causal_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, dropout: Any, window: int, documents: Any) -> Tensor:
        return honest(query, key, value, dropout, window + 1, documents)

    torch_ops.causal_attention = attention


def shifted_documents() -> None:
    """The mask begins one token late: the first token of a document still sees the one before."""
    honest = torch_ops.causal_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, dropout: Any, window: Any, documents: Any) -> Tensor:
        if len(documents) > 1 and documents[1] > 1:
            documents = (documents[0] + 1, documents[1] - 1, *documents[2:])
        return honest(query, key, value, dropout, window, documents)

    torch_ops.causal_attention = attention


def documents_at_the_ends_only() -> None:
    """Inner stages, which see no tokens, attend across documents."""
    whole = Run.batches

    def batches(self: Run, plan: Any, step_index: int) -> Any:
        return whole(self, plan, step_index) if self.stage.has_an_end else ()

    Run.batches = batches  # type: ignore[method-assign]


def head_taken_for_tied() -> None:
    """A head of its own is summed with the embedding and overwritten by it all the same."""
    from megacode.layers import embedding
    from megacode.model import ends

    tokens, head = embedding.token_embedding_spec, ends.head_spec
    embedding.token_embedding_spec = lambda model: dataclasses.replace(tokens(model), is_shared=True)
    ends.head_spec = lambda model: dataclasses.replace(head(model), is_shared=True)


def dropout_by_rank() -> None:
    """Each tensor-parallel rank draws the mask of its part of the sequence as if it were the first."""
    from megacode.model import block

    original = block.hidden_dropout

    def dropout(x: Tensor, probability: float, draw: Any, site: int, tp: Any) -> Any:
        chosen = original(x, probability, draw, site, tp)
        return None if chosen is None else dataclasses.replace(chosen, first_position=0)

    block.hidden_dropout = dropout


def dropped_weight_pass() -> None:
    """Of one micro-batch, the weight gradients that were held back are never added."""
    honest = Runner._backward_weight

    def backward_weight(self: Runner, action: Any, work: Any, flight: Any) -> None:
        if action.micro_batch == 1:
            flight.second_halves.pop((action.micro_batch, action.chunk))
        else:
            honest(self, action, work, flight)

    Runner._backward_weight = backward_weight  # type: ignore[method-assign]


def swapped_chunks() -> None:
    """The first stage hands the activations for its second chunk to its third, and the other way round."""
    honest = Stage.__init__

    def build(self: Stage, *arguments: Any) -> None:
        honest(self, *arguments)
        if self.index == 0:
            self.chunks[1], self.chunks[2] = self.chunks[2], self.chunks[1]

    Stage.__init__ = build  # type: ignore[method-assign]


def reduced_too_early() -> None:
    """A bucket is reduced when the first micro-batch has added to all of it; what comes later stays on its replica."""

    def note(self: BucketReduction, parameter: nn.Parameter) -> None:
        if self._micro_batches and parameter in self._bucket_of:
            self._told[parameter] += 1
            if self._told[parameter] == 1:
                self._missing[self._bucket_of[parameter]] -= 1
                self._start_complete()

    BucketReduction.note = note  # type: ignore[method-assign, assignment]


def death_of_rank_1() -> None:
    """A rank fails in its first reduction."""
    honest = ShardedAdamW.reduce

    def reduce(self: ShardedAdamW) -> None:
        assert self._groups.rank != 1, "as planted"
        honest(self)

    ShardedAdamW.reduce = reduce  # type: ignore[method-assign]
