"""Gradients are reduced while backward runs, and nobody can tell from the numbers: buckets, replicas, ZeRO stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import replicas
from replicas import Trained, joined, train
from tiny import tiny_config

from megacode.config.schema import RunConfig
from megacode.layers.spec import Copied, ParamSpec, Split
from megacode.optim.flat import FlatLayout, without
from megacode.prove.ranks import RankFailure, run_ranks

SMALL = 0.02  # MB: a stage of the tiny model is a handful of buckets


def config(optim: dict[str, Any] | None = None, precision: str = "fp32", **parallel: Any) -> RunConfig:
    """Five steps of the tiny run in small buckets; `clip` is so high that nothing depends on the norm's last bit."""
    own = {"bucket_megabytes": SMALL, "clip": 1e6, **(optim or {})}
    return tiny_config(parallel=parallel, optim=own, train={"steps": 5, "precision": precision})


def assert_same_bits(ours: list[Trained], theirs: list[Trained]) -> None:
    """Losses, masters and weights on every rank."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.losses == other.losses and one.norms == pytest.approx(other.norms, rel=1e-7)
        for name, weights in one.weights.items():
            np.testing.assert_array_equal(weights, other.weights[name], err_msg=name)


def test_a_layout_covers_everything_once_in_the_order_of_backward() -> None:
    shapes = [
        ("embedding", 90, Split(0)),
        ("a", 12, Split(0)),
        ("norm", 5, Copied()),
        ("b", 30, Copied()),
        ("head", 8, Split(0)),
    ]
    specs = [(ParamSpec(name, (n,), placement, decay=n > 5), (n,)) for name, n, placement in shapes]
    layout = FlatLayout.of(specs, 4, 45)
    names = [[segment.spec.name for segment in bucket.segments] for bucket in layout.buckets]
    assert names == [["head", "b", "norm"], ["a"], ["embedding"]]
    at = 0
    for bucket in layout.buckets:
        assert bucket.elements.start == at and len(bucket.elements) % (4 * 64) == 0
        assert bucket.segments[0].start == at
        at = bucket.elements.stop
        for segment in bucket.segments:
            elements = range(segment.start, segment.stop)
            assert segment.start % 64 == 0
            assert all((i in bucket.decayed) == segment.spec.decay for i in elements)
            assert all((i in bucket.copied) == isinstance(segment.spec.placement, Copied) for i in elements)
    assert layout.total == at
    owned = sorted(i for index in range(4) for part in layout.shards(index, 4) for i in part)
    assert owned == list(range(at))


def test_without_leaves_the_rest() -> None:
    assert without(range(2, 9), range(4, 6)) == [range(2, 4), range(6, 9)]
    assert without(range(2, 9), range(4)) == [range(4, 9)] and without(range(2, 9), range(20)) == []
    assert without(range(2, 9), range(12, 14)) == [range(2, 9)] and without(range(0), range(3)) == []


@pytest.mark.parametrize("layout", [{"dp": 2}, {"dp": 2, "tp": 2}, {"dp": 2, "pp": 2}, {"dp": 4}], ids=str)
def test_reduced_during_backward_is_reduced_at_the_end(layout: dict[str, int]) -> None:
    ours, theirs = train(config(**layout)), train(config(**layout), at_the_end=True)
    assert_same_bits(ours, theirs)
    for rank in ours:
        assert rank.early[0] == 0, "the first step counts"
        assert all(early >= rank.buckets - 1 >= 1 for early in rank.early[1:]), f"{rank.early} of {rank.buckets}"
    assert all(not any(rank.early) for rank in theirs)


@pytest.mark.parametrize("layout", [{"dp": 2}, {"dp": 2, "tp": 2}, {"dp": 2, "pp": 2}, {"dp": 4}], ids=str)
def test_zero_stages_and_buckets_compute_the_same_bits(layout: dict[str, int]) -> None:
    sharded = train(config(**layout))
    assert_same_bits(sharded, train(config({"zero_stage": 0}, **layout)))
    whole = train(config({"bucket_megabytes": 64.0}, **layout))
    assert whole[0].buckets == 1 < sharded[0].buckets
    assert_same_bits(sharded, whole)


def test_replicas_hold_the_same_weights_and_one_shard_each() -> None:
    ranks = train(config(dp=4))
    for rank in ranks[1:]:
        for name, weights in rank.weights.items():
            np.testing.assert_array_equal(weights, ranks[0].weights[name], err_msg=name)
    masters = joined(ranks, "masters")
    for name, weights in ranks[0].weights.items():
        np.testing.assert_array_equal(masters[name], weights.ravel(), err_msg=name)


@pytest.mark.parametrize("dp", [2, 4])
def test_gradients_in_the_weights_dtype_are_rounded_on_the_way(dp: int) -> None:
    exact = joined(train(config(precision="bf16", dp=dp)), "gradients")
    rounded = joined(train(config({"reduce_dtype": "weights"}, "bf16", dp=dp)), "gradients")
    replicated = joined(train(config({"reduce_dtype": "weights", "zero_stage": 0}, "bf16", dp=dp)), "gradients")
    for name, gradient in exact.items():
        bits = rounded[name].view(np.uint32)
        assert not (bits & 0xFFFF).any(), f"{name} is bf16"
        np.testing.assert_allclose(rounded[name], gradient, rtol=1e-2, atol=1e-2 * np.abs(gradient).max(), err_msg=name)
        np.testing.assert_array_equal(replicated[name], rounded[name], err_msg=name)
    assert any((gradient.view(np.uint32) & 0xFFFF).any() for gradient in exact.values()), "fp32 is not rounded"


def test_a_gradient_that_comes_too_late_is_no_silent_loss() -> None:
    with pytest.raises(RankFailure, match="a gradient came after its bucket was reduced"):
        train(config(dp=2), late=True)


def test_gradients_held_back_after_backward_are_waited_for() -> None:
    for rank, (begun, sums) in enumerate(run_ranks(2, replicas.hold_back)):
        assert begun == [[0], [0], [0, 0, 0], [1, 2, 3]], "complete with the last addition, not with autograd's last"
        assert sums == [6.0, 60.0, 600.0], f"rank {rank}"
