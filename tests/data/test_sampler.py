"""The data order is arithmetic: samples and batches are functions of numbers, whatever the order, the object or dp."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from megacode.data.batches import BatchPlan
from megacode.data.draws import INFILL, permutation, words
from megacode.data.errors import DataError
from megacode.data.fim import FimKey, FimPolicy, apply_fim
from megacode.data.indexed import ShardReader
from megacode.data.microbatch import document_lengths
from megacode.data.sampler import CACHED_DOCUMENTS, CACHED_EPOCHS, SampleStream, validation_stream
from megacode.data.shuffle import ShuffledStream
from megacode.data.tokenizer import Tokenizer

Shard = Callable[..., ShardReader]


def random_documents(count: int, longest: int) -> list[list[int]]:
    """Documents of 1 to `longest` ids and end-of-text; the first ids name the document."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest, count)
    return [[38 + number % 1400, *random.integers(38, 1500, n).tolist(), 0] for number, n in enumerate(lengths)]


@pytest.mark.parametrize("fim", [None, FimPolicy(0.5, 0.5)])
@pytest.mark.parametrize("sequence", [1, 7, 64, 5000])
def test_sample_is_a_pure_function(shard: Shard, tokenizer: Tokenizer, fim: FimPolicy | None, sequence: int) -> None:
    """Any order, any object; and equal to the stream that is written out: permuted, rearranged, concatenated."""
    documents = random_documents(40, 100)
    reader = shard(documents)
    count = min(3 * reader.tokens // sequence, 400)
    stream = SampleStream(reader, sequence, 5, fim, tokenizer)
    forward = [stream.sample(n) for n in range(count)]
    backward = SampleStream(reader, sequence, 5, fim, tokenizer)
    for n in np.random.default_rng(1).permutation(count).tolist():
        assert np.array_equal(backward.sample(n), forward[n])
    whole = []
    for epoch in range(3 + 2 * (sequence == 5000)):
        for index in permutation(5, epoch, len(documents)).tolist():
            tokens = np.array(documents[index])
            key = FimKey(5, epoch, index)
            whole.append(tokens if fim is None else apply_fim(tokens, key, fim, tokenizer).tokens)
    flat = np.concatenate(whole)
    for n, sample in enumerate(forward):
        assert sample.dtype == np.int64 and sample.shape == (sequence + 1,)
        expected = flat[n * sequence : n * sequence + sequence + 1]
        assert np.array_equal(sample[: expected.size], expected)


def test_caches_stay_bounded(shard: Shard, tokenizer: Tokenizer) -> None:
    stream = SampleStream(shard(random_documents(200, 30)), 16, 0, FimPolicy(), tokenizer)
    for n in range(0, 3000, 3):
        stream.sample(n)
    assert len(stream._epochs) <= CACHED_EPOCHS and len(stream._documents) <= CACHED_DOCUMENTS


def test_every_document_once_per_epoch(shard: Shard) -> None:
    documents = random_documents(300, 50)
    reader = shard(documents)
    stream = SampleStream(reader, 1, 11, None)
    tokens = np.array([stream.sample(n)[0] for n in range(2 * reader.tokens)])
    orders = []
    for epoch in range(2):
        part = tokens[epoch * reader.tokens : (epoch + 1) * reader.tokens]
        found = [(*row.tolist(),) for row in np.split(part, np.flatnonzero(part == 0) + 1)[:-1]]
        assert Counter(found) == Counter(map(tuple, documents))
        orders.append(found)
    assert orders[0] != orders[1] and stream.epochs_of(2 * reader.tokens) == 2.0


def test_seeds_differ_and_permutations_are_uniform() -> None:
    assert permutation(1, 0, 50).tolist() != permutation(2, 0, 50).tolist()
    places = np.array([permutation(3, epoch, 6) for epoch in range(3000)])
    for column in places.T:
        assert abs(np.bincount(column, minlength=6) - 500).max() < 5 * (500 * 5 / 6) ** 0.5


def test_draws_are_frozen() -> None:
    """A change of these numbers changes the data of every run."""
    assert words(1, 2, INFILL, (3, 4), 2).tolist() == [4208570424885461696, 18000126788701765821]
    assert permutation(0, 0, 5).tolist() == [4, 2, 0, 1, 3]


def test_validation_is_frozen(shard: Shard, tokenizer: Tokenizer) -> None:
    reader = shard(random_documents(20, 60))
    for fim in (None, FimPolicy(rate=1.0, spm_rate=1.0)):
        one, other = (validation_stream(reader, 32, tokenizer, fim) for _ in range(2))
        assert one.samples_per_epoch == (reader.tokens - 1) // 32
        for n in reversed(range(one.samples_per_epoch)):
            assert np.array_equal(one.sample(n), other.sample(n))
    assert (one.sample(0) == tokenizer.fim_suffix).any()


def test_dp_changes_who_but_not_what(shard: Shard) -> None:
    """Every dp trains step t on samples [t * 12, t * 12 + 12), each once; micro-batch j is rank j % dp's j // dp-th."""
    stream = SampleStream(shard(random_documents(50, 80)), 16, 3, None)
    for dp in (1, 2, 3, 6):
        plan = BatchPlan(stream, 2, 12, dp)
        assert plan.micro_batches_per_rank * dp * 2 == 12
        for step in (0, 7):
            seen = []
            for j in range(6):
                indices = plan.sample_indices(step, j % dp, j // dp)
                assert list(indices) == [step * 12 + 2 * j, step * 12 + 2 * j + 1]
                batch = plan.micro_batch(step, j % dp, j // dp)
                rows = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1).numpy()
                assert all(np.array_equal(row, stream.sample(n)) for row, n in zip(rows, indices, strict=True))
                seen += indices
            assert seen == list(range(step * 12, step * 12 + 12))


def test_micro_batch_shapes(shard: Shard) -> None:
    batch = BatchPlan(SampleStream(shard(random_documents(50, 80)), 16, 3, None), 3, 6, 2).micro_batch(0, 1, 0)
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()
    assert batch.tokens.dtype == batch.targets.dtype == batch.positions.dtype == torch.int64
    assert batch.weights.dtype == torch.float32 and (batch.weights == 1).all()
    assert (batch.positions == torch.arange(16)).all()
    assert {t.shape for t in (batch.tokens, batch.targets, batch.weights, batch.positions)} == {(3, 16)}


def test_documents_and_positions_follow_the_end_of_text(shard: Shard) -> None:
    """A document ends with token 0 or with its row; positions count from its start; nothing else changes."""
    stream = SampleStream(shard(random_documents(50, 20)), 32, 3, None)
    plain, masked = (BatchPlan(stream, 3, 6, 1, end_of_text).micro_batch(0, 0, 1) for end_of_text in (None, 0))
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
    ("rows", "lengths"), [([[0, 0, 5], [5, 5, 0]], (1, 1, 1, 3)), ([[5, 5, 5]], (3,)), ([[0], [7]], (1, 1))]
)
def test_document_lengths_at_the_edges(rows: list[list[int]], lengths: tuple[int, ...]) -> None:
    assert document_lengths(np.array(rows), 0) == lengths


def test_wrong_calls(shard: Shard) -> None:
    reader = shard([[50, 0]])
    stream = SampleStream(reader, 4, 3, None)
    for make, message in [
        (lambda: SampleStream(reader, 0, 3, None), "sequence must be at least 1"),
        (lambda: SampleStream(reader, 4, -1, None), r"seed must be in \[0, 2\^64\); found -1"),
        (lambda: SampleStream(reader, 4, 3, FimPolicy()), "fim needs the tokenizer"),
        (lambda: SampleStream(shard([], name="none"), 4, 3, None), "holds no tokens"),
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
    """The files that `train` imports work where pyarrow, rensa and zstandard are not installed."""
    code = (
        "import sys; sys.modules.update({name: None for name in ('pyarrow', 'rensa', 'zstandard', 'transformers')});"
        "import megacode.data.batches, megacode.data.sidecar, megacode.data.entropy, megacode.data.fim"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shuffled_samples_come_once_and_from_everywhere(shard: Shard) -> None:
    """Each epoch's worth is a permutation of the stream's samples, another one each time; a new object agrees."""
    stream = SampleStream(shard(random_documents(300, 50)), 16, 3, None)
    epoch = stream.samples_per_epoch
    shuffled = [ShuffledStream(stream).sample(n) for n in range(2 * epoch)]
    again = ShuffledStream(stream)
    assert all(np.array_equal(again.sample(n), shuffled[n]) for n in reversed(range(2 * epoch)))
    plain = [stream.sample(n) for n in range(2 * epoch)]
    for first in (0, epoch):
        ours, theirs = (sorted(tuple(row) for row in rows[first : first + epoch]) for rows in (shuffled, plain))
        assert ours == theirs
    place = {tuple(row): n for n, row in enumerate(plain)}
    first_batch = [place[tuple(row)] for row in shuffled[:32]]
    assert min(first_batch) < epoch / 4 and max(first_batch) > epoch * 3 / 4
    with pytest.raises(DataError, match="at least 0"):
        again.sample(-1)
