"""Megatron-core's own IndexedDataset reads our shards: in an environment of its own, from the package index.

MEGACODE_TEST_CACHE names a folder for the download (default ~/.cache/megacode-tests). Nothing is installed here: the
package lies on the path of one subprocess, which finds torch where this one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacode.data.documents import Document, write_documents
from megacode.data.shards.indexed import ShardReader, ShardWriter, bin_path, idx_path
from megacode.data.shards.removal import remove_documents
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGE = "megatron-core==0.16.1"  # the newest for Python 3.11

READ = """
import json, sys
from megatron.core.datasets.indexed_dataset import IndexedDataset
shards = {}
for prefix in sys.argv[1:]:
    data = IndexedDataset(prefix)
    shards[prefix] = {
        "documents": [data[n].tolist() for n in range(len(data))],
        "lengths": data.sequence_lengths.tolist(),
        "index": data.document_indices.tolist(),
        "dtype": str(data[0].dtype),
        "slice": data.get(0, offset=1, length=2).tolist(),
    }
print(json.dumps(shards))
"""

WRITE = """
import sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
builder = IndexedDatasetBuilder(sys.argv[1] + ".bin", dtype=numpy.uint16)
for length in (3, 1, 40000):
    builder.add_document(torch.arange(length), [length])
builder.finalize(sys.argv[1] + ".idx")
"""


@pytest.fixture(scope="module")
def megatron() -> Path:
    """The folder that the package is in."""
    folder = Path(os.environ.get("MEGACODE_TEST_CACHE") or Path.home() / ".cache" / "megacode-tests") / "megatron"
    place = folder / "site"
    if not (place / "megatron").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f"{os.getpid()}.partial"
        command = [sys.executable, "-m", "pip", "install", PACKAGE, "--no-deps", "--quiet", "--target", str(half)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{PACKAGE} took more than 400 s to install")
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be installed: {done.stderr[-300:]}")
        half.rename(place)
    return place


def run_there(megatron: Path, program: str, *arguments: str) -> str:
    """What `program` prints in a Python that has Megatron-core and not this project."""
    environment = {**os.environ, "PYTHONPATH": str(megatron), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"{PACKAGE} needs more than torch and numpy here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_megatron_reads_what_we_write(megatron: Path, tokenizer: Tokenizer, tmp_path: Path, sources: list[str]) -> None:
    rows = [Document(f"id{n}", f"{n}.py", "python", text) for n, text in enumerate([*sources, "", "x"])]
    write_documents(tmp_path / "in.jsonl.zst", rows)
    shards = [tmp_path / "uint16", tmp_path / "removed", tmp_path / "int32"]
    for shard in shards[:2]:
        tokenize(tmp_path / "in.jsonl.zst", tokenizer, shard)
    remove_documents(shards[1], ids=["id3"])
    with ShardWriter(shards[2], 200_000) as writer:
        for document in ([199_999, 5, 0], [0], list(range(70_000, 70_300))):
            writer.add(document)
    theirs = json.loads(run_there(megatron, READ, *map(str, shards)).splitlines()[-1])
    for shard, dtype in zip(shards, ("uint16", "uint16", "int32"), strict=True):
        reader, found = ShardReader(shard), theirs[str(shard)]
        assert found["documents"] == [reader.document(n).tolist() for n in range(reader.documents)]
        assert found["lengths"] == reader.lengths.tolist()
        assert found["index"] == list(range(reader.documents + 1))
        assert found["dtype"] == dtype
        assert found["slice"] == reader.document(0)[1:3].tolist()
    assert set(theirs[str(shards[1])]["documents"][3]) == {tokenizer.end_of_text}


def test_we_read_and_write_the_same_bytes_as_megatron(megatron: Path, tmp_path: Path) -> None:
    run_there(megatron, WRITE, str(tmp_path / "theirs"))
    reader = ShardReader(tmp_path / "theirs")
    assert [reader.document(n).tolist() for n in range(3)] == [list(range(length)) for length in (3, 1, 40000)]
    reader.check_rows()
    with ShardWriter(tmp_path / "ours", 49152) as writer:
        for length in (3, 1, 40000):
            writer.add(np.arange(length))
    for path in (bin_path, idx_path):
        assert path(tmp_path / "ours").read_bytes() == path(tmp_path / "theirs").read_bytes()
