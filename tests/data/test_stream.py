"""The data is arithmetic: samples and batches are functions of numbers, whatever the order, object, workers or dp."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from megacode.data.batches import BatchPlan
from megacode.data.draws import INFILL, words
from megacode.data.errors import DataError
from megacode.data.infill import FimKey, FimPolicy, Infiller
from megacode.data.microbatch import micro_batch_of
from megacode.data.prefetch import Prefetcher
from megacode.data.shards.indexed import ShardReader
from megacode.data.stream.blend import Blend, Phase
from megacode.data.stream.plan import PackingPlan, best_fit, plan_path, write_plan
from megacode.data.stream.sample import Sample
from megacode.data.stream.stream import SampleStream, SourceShards
from megacode.data.tokenizers.tokenizer import Tokenizer

Shard = Callable[..., ShardReader]
PAD = 4


def random_documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Documents of 1 to `longest` ids and end-of-text; the first ids name the document."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, count)
    return [[38 + number % 1400, *random.integers(38, 1500, n).tolist(), 0] for number, n in enumerate(lengths)]


def stream_of(
    shards: list[ShardReader],
    sequence: int,
    seed: int = 5,
    infiller: Infiller | None = None,
    packing: str = "concatenate",
) -> SampleStream:
    """The stream of one source."""
    infillers = [infiller] * len(shards) if infiller else []
    return SampleStream(
        [SourceShards("one", shards, PAD, infillers)], Blend([Phase(0, (1.0,))], seed), sequence, seed, packing
    )


def blended(shard: Shard, tokenizer: Tokenizer) -> SampleStream:
    """Three sources, one of two shards, whose weights change twice."""
    infiller = Infiller(FimPolicy(), tokenizer)
    shards = [shard(random_documents(60, 80, seed), name=f"shard{seed}") for seed in range(4)]
    sources = [
        SourceShards("a", shards[:2], PAD, [infiller] * 2),
        SourceShards("b", shards[2:3], PAD, [infiller]),
        SourceShards("c", shards[3:], PAD),
    ]
    phases = [Phase(0, (1.0, 1.0, 0.5)), Phase(150, (0.2, 0.0, 3.0)), Phase(410, (1.0, 2.0, 1.0))]
    return SampleStream(sources, Blend(phases, 5), 32, 5)


def same(one: Sample, other: Sample) -> bool:
    return (
        np.array_equal(one.tokens, other.tokens)
        and np.array_equal(one.weights, other.weights)
        and one.lengths == other.lengths
    )


@pytest.mark.parametrize("sequence", [1, 7, 64, 5000])
@pytest.mark.parametrize("fim", [None, FimPolicy(0.5, 0.5)])
def test_a_sample_is_what_is_written_out(
    shard: Shard, tokenizer: Tokenizer, fim: FimPolicy | None, sequence: int
) -> None:
    """Documents end to end in the shards' order, read around the circle from a drawn place, each part rearranged."""
    documents = [random_documents(25, 100, seed) for seed in (1, 2)]
    shards = [shard(part, name=f"part{place}") for place, part in enumerate(documents)]
    infiller = Infiller(fim, tokenizer) if fim else None
    stream = stream_of(shards, sequence, infiller=infiller)
    tokens = sum(reader.tokens for reader in shards)
    per_epoch = max(1, tokens // sequence)
    circle = np.concatenate([*documents[0], *documents[1]] * (2 + sequence // tokens))
    for epoch in range(2):
        starts = set()
        for n in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            sample, spans = stream.sample(n), stream.spans(n)
            assert sample.tokens.dtype == np.int64 and sample.tokens.shape == (sequence + 1,)
            assert (sample.weights == 1).all() and sum(sample.lengths) == sequence + 1
            start = (spans[0].shard and shards[0].tokens) + shards[spans[0].shard].start(spans[0].document)
            start += spans[0].start
            plain = [documents[span.shard][span.document][span.start : span.stop] for span in spans]
            assert np.array_equal(np.concatenate(plain), circle[start : start + sequence + 1])
            starts.add(start)
            parts = plain
            if infiller:
                whole = [np.array(documents[span.shard][span.document]) for span in spans]
                keys = [FimKey(5, epoch, span.shard << 32 | span.document) for span in spans]
                parts = [
                    infiller.apply(one, key, (span.start, span.stop)).tokens[span.start : span.stop]
                    for one, key, span in zip(whole, keys, spans, strict=True)
                ]
            assert np.array_equal(sample.tokens, np.concatenate(parts))
        gaps = np.diff(sorted(starts))
        assert len(starts) == per_epoch and (gaps % sequence == 0).sum() >= gaps.size - 1  # one gap holds what is left


def test_any_order_any_object(shard: Shard, tokenizer: Tokenizer) -> None:
    stream = blended(shard, tokenizer)
    forward = [stream.sample(n) for n in range(600)]
    backward = blended(shard, tokenizer)
    for n in np.random.default_rng(1).permutation(600).tolist():
        assert same(backward.sample(n), forward[n])
    assert {stream.origin(n).source for n in range(150, 410)} == {0, 2}  # weight 0 leaves a source out


def check_steps(prefetcher: Prefetcher, samples: list[Sample], rank: int, steps: range) -> None:
    """Step t of every dp is samples [16 t, 16 t + 16) of the blend, micro-batch j for rank j % dp."""
    dp = prefetcher.plan.dp
    for step in steps:
        batches = prefetcher.step(step)
        assert len(batches) == 8 // dp
        for index, batch in enumerate(batches):
            first = step * 16 + (index * dp + rank) * 2
            expected = micro_batch_of(samples[first : first + 2], keep_documents_apart=True)
            for field in ("tokens", "targets", "weights", "positions"):
                assert torch.equal(getattr(batch, field), getattr(expected, field)), (step, field)
            assert batch.documents == expected.documents


def test_dp_and_resume_change_nothing(shard: Shard, tokenizer: Tokenizer) -> None:
    """Every rank of dp 1, 2 and 8, from 50 random steps on, across two changes of the blend."""
    stream = blended(shard, tokenizer)
    samples = [stream.sample(n) for n in range(40 * 16)]
    for dp in (1, 2, 8):
        plan = BatchPlan(blended(shard, tokenizer), 2, 16, dp, keeps_documents_apart=True)
        for rank in range(dp):
            for start in np.random.default_rng(dp).integers(0, 38, 50).tolist():
                check_steps(Prefetcher(plan, rank, 0, 40), samples, rank, range(start, start + 2))


@pytest.mark.slow
def test_workers_change_nothing(shard: Shard, tokenizer: Tokenizer) -> None:
    """Four processes making batches ahead, from the start and resumed in the middle."""
    stream = blended(shard, tokenizer)
    samples = [stream.sample(n) for n in range(40 * 16)]
    plan = BatchPlan(blended(shard, tokenizer), 2, 16, 2, keeps_documents_apart=True)
    prefetcher = Prefetcher(plan, 1, 4, 40)
    check_steps(prefetcher, samples, 1, range(40))
    check_steps(prefetcher, samples, 1, range(27, 31))  # the same object, asked from elsewhere


def test_a_dead_worker_is_an_error_that_says_so() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from deadly_stream import Deadly;"
        "from megacode.data.batches import BatchPlan; from megacode.data.prefetch import Prefetcher;"
        "Prefetcher(BatchPlan(Deadly(), 1, 1, 1), 0, 1, 3).step(0)"
    )
    support = Path(__file__).parent.parent / "support"
    ended = subprocess.run([sys.executable, "-c", code, str(support)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "a data worker of step 0 died" in ended.stderr, ended.stderr


def test_every_token_once_per_epoch_but_for_less_than_a_sample(shard: Shard) -> None:
    documents = random_documents(300, 50)
    reader = shard(documents)
    stream = stream_of([reader], 16)
    per_epoch = stream.packings[0].samples_per_epoch
    assert per_epoch == reader.tokens // 16
    orders = []
    for epoch in range(2):
        seen: Counter[tuple[int, int]] = Counter()
        for n in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            spans = stream.spans(n)
            places = [(span.document, token) for span in spans for token in range(span.start, span.stop)]
            seen.update(places[:-1])  # the last token is the next sample's first
        assert set(seen.values()) == {1} and reader.tokens - 16 < len(seen) <= reader.tokens
        orders.append([stream.spans(n)[0][1] for n in range(epoch * per_epoch, epoch * per_epoch + 100)])
    assert orders[0] != orders[1] and stream.epochs(3 * per_epoch) == [3.0]


def test_a_source_smaller_than_a_sample_goes_around(shard: Shard) -> None:
    sample = stream_of([shard([[50, 51, 0], [60, 0]])], 12).sample(0)
    text = "".join(f"{token} " for token in sample.tokens)
    assert "50 51 0 60 0 50 51 0" in text and sum(sample.lengths) == 13


def test_best_fit_keeps_documents_whole_and_wastes_little(shard: Shard, tokenizer: Tokenizer) -> None:
    documents = random_documents(400, 120)
    reader = shard(documents)
    write_plan(reader, 512)
    stream = stream_of([reader], 512, packing="best-fit")
    per_epoch = stream.packings[0].samples_per_epoch
    seen: Counter[int] = Counter()
    padding = 0
    for n in range(per_epoch):
        sample, spans, filled = stream.sample(n), stream.spans(n), 0
        for span in spans:
            part = sample.tokens[filled : filled + span.stop - span.start]
            assert part.tolist() == documents[span.document]
            seen[span.document] += 1
            filled += part.size
        assert (sample.tokens[filled:] == PAD).all() and (sample.weights[filled:] == 0).all()
        assert (sample.weights[:filled] == 1).all() and sum(sample.lengths) == 513
        padding += 513 - filled
    assert seen == Counter(range(400)) and padding < 0.03 * reader.tokens
    again = stream_of([shard(documents, name="again")], 512)  # without a plan
    assert same(again.sample(0), again.sample(0))
    with pytest.raises(DataError, match=r"pack-512: missing; make it with `megacode data pack"):
        stream_of([again.sources[0].shards[0]], 512, packing="best-fit")


def test_best_fit_cuts_only_what_no_sample_holds(shard: Shard) -> None:
    """The pieces of a long document overlap by one token, whose prediction counts once."""
    documents = [[50] * 30 + [0], [*range(60, 160), 0]]
    reader = shard(documents)
    write_plan(reader, 32)
    stream = stream_of([reader], 32, packing="best-fit")
    counted: Counter[int] = Counter()
    for n in range(stream.packings[0].samples_per_epoch):
        sample, filled = stream.sample(n), 0
        for span in stream.spans(n):
            if span.document == 1:
                part = slice(filled, filled + span.stop - span.start)
                assert sample.tokens[part].tolist() == documents[1][span.start : span.stop]
                counted.update(sample.tokens[part][sample.weights[part].astype(bool)][int(filled == 0) :].tolist())
            filled += span.stop - span.start
    assert counted == Counter(documents[1][1:])


def test_best_fit_decreasing() -> None:
    assert best_fit([5, 3, 9, 4, 1], 9) == [[(2, 0, 9), (4, 0, 1)], [(0, 0, 5), (3, 0, 4)], [(1, 0, 3)]]
    assert best_fit([25], 9) == [[(0, 0, 10)], [(0, 9, 10)], [(0, 18, 7)]]
    assert best_fit([0], 9) == []


@pytest.mark.parametrize("damage", ["short", "magic", "other"])
def test_a_damaged_plan_is_named(shard: Shard, damage: str) -> None:
    reader = shard(random_documents(20, 30))
    write_plan(reader, 16)
    path = plan_path(reader.prefix, 16)
    content = path.read_bytes()
    if damage == "other":
        write_plan(shard(random_documents(21, 30), name="other"), 16)
        content = plan_path(reader.prefix.with_name("other"), 16).read_bytes()
    path.write_bytes({"short": content[:-1], "magic": b"x" + content[1:], "other": content}[damage])
    with pytest.raises(DataError, match=r"shard\.pack-16: .*make it with `megacode data pack"):
        PackingPlan(reader, 16)


def test_draws_are_frozen() -> None:
    """A change of these numbers changes the data of every run."""
    assert words(1, 2, INFILL, (3, 4), 2).tolist() == [4208570424885461696, 18000126788701765821]


def test_micro_batch_shapes(shard: Shard) -> None:
    batch = BatchPlan(stream_of([shard(random_documents(50, 80))], 16), 3, 6, 2).micro_batch(0, 1, 0)
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()
    assert batch.tokens.dtype == batch.targets.dtype == batch.positions.dtype == torch.int64
    assert batch.weights.dtype == torch.float32 and (batch.weights == 1).all()
    assert (batch.positions == torch.arange(16)).all()
    assert {t.shape for t in (batch.tokens, batch.targets, batch.weights, batch.positions)} == {(3, 16)}


def test_documents_and_positions_follow_the_shards_documents(shard: Shard) -> None:
    """A document ends where the shard says or with its row; positions count from its start; nothing else changes."""
    stream = stream_of([shard(random_documents(50, 20))], 32)
    plain, masked = (BatchPlan(stream, 3, 6, 1, apart).micro_batch(0, 0, 1) for apart in (False, True))
    assert plain.documents is None and masked.documents is not None and sum(masked.documents) == 3 * 32
    assert len(masked.documents) > 6
    for field in ("tokens", "targets", "weights"):
        assert torch.equal(getattr(plain, field), getattr(masked, field))
    starts = masked.positions.flatten() == 0
    ends = (masked.tokens == 0).index_fill(1, torch.tensor([31]), True).flatten()
    assert torch.equal(starts, ends.roll(1))
    assert ((masked.positions.diff(dim=1) == 1) | (masked.positions[:, 1:] == 0)).all()
    assert masked.documents == tuple((masked.positions.flatten()[ends] + 1).tolist())
    assert masked.to(torch.device("cpu")).documents == masked.documents


@pytest.mark.parametrize(
    ("lengths", "documents"), [((1, 1, 2), (1, 1, 1)), ((3, 1), (3,)), ((4,), (3,)), ((2, 1, 1), (2, 1))]
)
def test_the_last_token_of_a_sample_is_only_predicted(lengths: tuple[int, ...], documents: tuple[int, ...]) -> None:
    sample = Sample(np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.float32), lengths)
    assert micro_batch_of([sample], keep_documents_apart=True).documents == documents


def test_wrong_calls(shard: Shard) -> None:
    reader = shard([[50, 0]])
    stream = stream_of([reader], 4)
    one = [SourceShards("one", [reader], PAD)]
    blend = Blend([Phase(0, (1.0,))], 0)
    for make, message in [
        (lambda: SampleStream(one, blend, 0, 3), "sequence must be at least 1"),
        (lambda: SampleStream(one, blend, 4, -1), r"seed must be in \[0, 2\^64\); found -1"),
        (lambda: SampleStream(one * 2, blend, 4, 0), "the blend is of 1 sources, the stream has 2"),
        (lambda: stream_of([shard([], name="none")], 4), "holds no tokens"),
        (lambda: stream.sample(-1), "sample index must be at least 0"),
        (
            lambda: BatchPlan(stream, 2, 10, 2),
            "global_batch = 10 must be a multiple of micro_batch 2 x dp 2; nearest 8, 12",
        ),
        (lambda: BatchPlan(stream, 0, 10, 2), "micro_batch must be at least 1; found 0"),
        (lambda: BatchPlan(stream, 2, 4, 2).micro_batch(0, 2, 0), "outside the plan"),
        (lambda: BatchPlan(stream, 2, 4, 2).micro_batch(0, 0, 1), "outside the plan"),
    ]:
        with pytest.raises(DataError, match=message):
            make()


def test_training_needs_no_preparation_library() -> None:
    """The files that `train` imports work where only the engine is installed."""
    absent = ("pyarrow", "rensa", "zstandard", "transformers", "datatrove", "tree_sitter", "bs4", "detect_secrets")
    code = (
        f"import sys; sys.modules.update({{name: None for name in {absent}}});"
        "import megacode.train.feed, megacode.data.shards.entropy, megacode.data.prefetch"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
