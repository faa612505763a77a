"""`megacode data`: an audit that finds what it should, and names for what a step saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from megacode.data.batches import BatchPlan
from megacode.data.documents import Document, write_documents
from megacode.data.infill import FimKey, FimPolicy, FimResult, Infiller
from megacode.data.inspect.audit import audit, render_audit
from megacode.data.inspect.stats import render_stats, shard_stats
from megacode.data.inspect.which import render_seen, which
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.tokenize import tokenize
from megacode.data.stream.blend import Blend, Phase
from megacode.data.stream.stream import SampleStream, SourceShards
from megacode.data.tokenizers.tokenizer import Tokenizer

POLICY = FimPolicy()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> ShardReader:
    folder = tmp_path_factory.mktemp("inspect")
    texts = [f"def f{n}(x):\n    return x + {n % 7}  # {n} 日本\n" * (1 + n % 5) for n in range(120)]
    documents = [
        Document(f"id{n}", f"src/{n}.py", "python" if n % 3 else "c", text, repository=f"me/r{n % 4}")
        for n, text in enumerate(texts)
    ]
    write_documents(folder / "d.jsonl.zst", documents)
    tokenize(folder / "d.jsonl.zst", tokenizer, folder / "d")
    return ShardReader(folder / "d")


def stream_of(reader: ShardReader, infiller: Infiller, pad: int = 4) -> SampleStream:
    return SampleStream([SourceShards("code", [reader], pad, [infiller])], Blend([Phase(0, (1.0,))], 3), 512, 3)


def test_a_sound_run_is_told_with_its_rates_and_costs(reader: ShardReader, tokenizer: Tokenizer) -> None:
    found = audit(stream_of(reader, Infiller(POLICY, tokenizer)), tokenizer, range(100))
    assert not found.findings and found.samples == 100 and found.sample_tokens == 51300
    assert 0.4 < found.rearranged / sum(found.pieces.values()) < 0.6 and found.lost_bytes > 0
    text = render_audit(found, POLICY)
    for part in ("100 samples", "sources   code 100.0%", "(asked 0.5)", "every document is the shard's, byte for byte"):
        assert part in text


class Faulty(Infiller):
    """An infiller that spoils one thing."""

    def __init__(self, tokenizer: Tokenizer, fault: str) -> None:
        super().__init__(FimPolicy(rate=1.0, spm_rate=0.0), tokenizer)
        self.fault = fault

    def apply(self, tokens: np.ndarray, key: FimKey, visible: tuple[int, int] | None = None) -> FimResult:
        result = super().apply(tokens, key, visible)
        row = result.tokens.astype(np.int64)
        middle = np.flatnonzero(row == self.tokenizer.fim_middle)
        if not middle.size:
            return result
        if self.fault == "no end-of-text":
            row[-1] = 50
        elif self.fault == "stray sentinel":
            row[1] = self.tokenizer.fim_prefix
        elif self.fault == "another text":
            row[middle[0] + 1 : -1] = np.roll(row[middle[0] + 1 : -1], 1)
        return dataclasses.replace(result, tokens=row)


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("no end-of-text", "with end-of-text"),
        ("stray sentinel", "fim sentinels must come as"),
        ("another text", "gives other text than the shard's"),
    ],
)
def test_a_planted_fault_is_found(reader: ShardReader, tokenizer: Tokenizer, fault: str, finding: str) -> None:
    found = audit(stream_of(reader, Faulty(tokenizer, fault)), tokenizer, range(30))
    assert any(finding in text for text in found.findings) and f"{reader.prefix} document" in found.findings[0]


def test_which_names_every_document_of_a_step(reader: ShardReader, tokenizer: Tokenizer) -> None:
    stream = stream_of(reader, Infiller(POLICY, tokenizer))
    plan = BatchPlan(stream, 2, 8, 2)
    seen = which(plan, stream, step=5)
    assert {one.sample for one in seen} == set(range(32, 40)) and {one.dp_rank for one in seen} == {0, 1}
    for one in seen:
        assert one.row is not None and one.row.id == f"id{one.row.path.split('/')[1].removesuffix('.py')}"
        assert one.row.tokens == reader.lengths[one.document] and one.start < one.stop <= one.row.tokens
    alone = which(plan, stream, step=5, dp_rank=1)
    assert alone == [one for one in seen if one.dp_rank == 1]
    line = render_seen(alone).splitlines()[0]
    first = alone[0]
    assert f"sample {first.sample} (dp rank 1, micro-batch {first.micro_batch}): code, epoch {first.epoch}" in line
    assert first.row is not None and line.endswith(f"{first.row.id} {first.row.repository} {first.row.path}")


def test_stats_count_the_shard(reader: ShardReader) -> None:
    stats = shard_stats(reader)
    assert (stats.documents, stats.tokens, stats.removed) == (120, reader.tokens, 0)
    assert stats.longest == max(reader.lengths) and sum(stats.languages.values()) == reader.tokens
    assert list(stats.languages) == ["python", "c"] and str(Path(reader.prefix)) in render_stats([stats])
