"""What the data tests share: one small tokenizer trained on real code, and shards made on the spot."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megacode.data.shards.indexed import ShardReader, ShardWriter
from megacode.data.tokenizers.tokenizer import Tokenizer, train_bpe

FILES = ("argparse.py", "ast.py", "bisect.py", "csv.py", "dis.py", "enum.py", "glob.py", "heapq.py", "json/decoder.py")


@pytest.fixture(scope="session")
def sources() -> list[str]:
    """Nine modules of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    return [(root / name).read_text(encoding="utf-8") for name in FILES]


@pytest.fixture(scope="session")
def tokenizer(sources: list[str]) -> Tokenizer:
    """A StarCoder2-like tokenizer of 1,500 tokens, some of which hold half a character or several."""
    return train_bpe([*sources, "naïve café 日本語 日本語 🙂🙂🙃 " * 50], 1500, "starcoder2")


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., ShardReader]:
    """Write documents of token ids to a shard and open it."""

    def make(documents: list[list[int]], vocab_size: int = 1500, name: str = "shard") -> ShardReader:
        with ShardWriter(tmp_path / name, vocab_size) as writer:
            for document in documents:
                writer.add(np.array(document))
        return ShardReader(tmp_path / name)

    return make
