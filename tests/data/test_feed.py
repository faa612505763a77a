"""From a configuration to batches: sources by pattern, weights over the run, validation told apart, clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megacode.config.load import parse_config
from megacode.config.schema import RunConfig
from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.train.feed import open_feed
from megacode.train.files import missing_files

SEQUENCE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Shards code-c and code-python, and a mixed one."""
    folder = tmp_path_factory.mktemp("feed")
    tokenizer.save(folder / "tokenizer")
    documents = [
        Document(str(n), f"{n}", "python" if n % 4 else "c", f"value_{n} = function(argument, {n})\n" * (2 + n % 3))
        for n in range(80)
    ]
    write_documents(folder / "d.jsonl.zst", documents)
    tokenize(folder / "d.jsonl.zst", tokenizer, folder / "code", by_language=True)
    tokenize(folder / "d.jsonl.zst", tokenizer, folder / "mixed")
    return folder


def config_of(folder: Path, steps: int = 50, **data: Any) -> RunConfig:
    table: dict[str, Any] = {
        "model": {"layers": 1, "hidden": 8, "heads": 1, "vocab": 1500},
        "data": {"tokenizer": str(folder / "tokenizer"), "sequence": SEQUENCE, **data},
        "optim": {"lr": 1.0},
        "train": {"steps": steps, "global_batch": 8, "validate_sequences": 4},
    }
    return parse_config(table, "test")


def blend(folder: Path, **weights: float) -> list[dict[str, Any]]:
    names = ("c", "python")
    return [
        {"name": name, "shards": str(folder / f"code-{name}*"), **({"weight": weights[name]} if weights else {})}
        for name in names
    ]


def test_without_weights_a_source_counts_by_its_tokens(folder: Path) -> None:
    feed = open_feed(config_of(folder, sources=blend(folder)))
    assert feed.epochs["c"] == pytest.approx(feed.epochs["python"], rel=0.1)
    one = open_feed(config_of(folder, train=str(folder / "code-*")))
    assert list(one.epochs) == ["train"] and one.stream is not None and len(one.stream.sources[0].shards) == 2


def test_the_mix_changes_at_its_tokens_and_cursors_go_on(folder: Path) -> None:
    later = [{"from_tokens": 100 * SEQUENCE - 5, "weights": {"c": 0.0, "python": 1.0}}]
    feed = open_feed(config_of(folder, sources=blend(folder, c=1.0, python=1.0), mix=later))
    at = {step: feed.position(step).cursors for step in (0, 5, 12, 13, 50)}
    assert at[0] == {"c": 0, "python": 0} and sum(at[5].values()) == 40 and abs(at[5]["c"] - 20) <= 2
    assert at[13]["c"] == at[50]["c"] and abs(at[50]["c"] - 50) <= 2 and sum(at[50].values()) == 400


def test_the_next_batch_tells_every_change_of_the_data(folder: Path) -> None:
    base = {"sources": blend(folder, c=1.0, python=1.0)}
    seen = open_feed(config_of(folder, **base)).position(3).next_batch
    assert open_feed(config_of(folder, **base)).position(3).next_batch == seen
    assert open_feed(config_of(folder, **base, workers=2)).position(3).next_batch == seen
    for change in (
        {"seed": 7},
        {"fim": {"rate": 0.9}},
        {"sources": blend(folder, c=1.0, python=3.0)},
        {"sources": blend(folder, c=1.0, python=1.0)[::-1]},
    ):
        assert open_feed(config_of(folder, **{**base, **change})).position(3).next_batch != seen, change
    assert open_feed(config_of(folder, **base)).position(4).next_batch != seen


def test_validation_is_told_by_source_and_language(folder: Path) -> None:
    feed = open_feed(config_of(folder, train=str(folder / "mixed"), validation=str(folder / "code-*")))
    assert {name: list(kinds) for name, kinds in feed.validation.items()} == {
        name: ["left_to_right", "psm", "spm"] for name in ("c", "python")
    }
    sources = [{**source, "validation": str(folder / "code-*")} for source in blend(folder)]
    assert set(open_feed(config_of(folder, sources=sources)).validation) == {
        f"{source}.{language}" for source in ("c", "python") for language in ("c", "python")
    }
    alone = open_feed(config_of(folder, train=str(folder / "mixed"), validation=str(folder / "mixed")))
    assert list(alone.validation) == ["train"]


def test_what_is_missing_is_named_before_anything_starts(folder: Path) -> None:
    config = config_of(folder, sources=[*blend(folder), {"name": "java", "shards": str(folder / "java-*")}])
    (problem,) = missing_files(config)
    assert (problem.field, problem.rule) == ("data.sources.2.shards", "no such shard")
    with pytest.raises(DataError, match=r"java-\*: no shard of this name; make it with `megacode tokenize`"):
        open_feed(config)
    small = config_of(folder, train=str(folder / "mixed"))
    small = small.model_copy(update={"model": small.model.model_copy(update={"vocab": 1000})})
    with pytest.raises(DataError, match=r"has \d+ tokens, model.vocab is 1000"):
        open_feed(small)
