"""StarCoder's and StarCoder2's released vocabularies, imported: all of their published vectors, and what they lack.

The vocabularies come in llama.cpp's test data, from the package index; they are fetched here and never kept in the
project. MEGACODE_TEST_CACHE names a folder for the download (default ~/.cache/megacode-tests).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
from gguf_vocabulary import rebuild

from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.tokenize import LOSSY, tokenize
from megacode.data.tokenizers.sentinels import SENTINELS
from megacode.data.tokenizers.tokenizer import Tokenizer, import_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGE = "llama-cpp-python==0.2.90"
ARCHIVE = "llama_cpp_python-0.2.90.tar.gz"
MODELS = "llama_cpp_python-0.2.90/vendor/llama.cpp/models/ggml-vocab-"
BETWEEN = "\n__ggml_vocab_test__\n"
TOKENS = 49152
MISSING = bytes([0xC0, 0xC1, 0xF1, *range(0xF5, 0x100)])


class Released(NamedTuple):
    """Where a family's vocabulary is in the archive; ids of "def", " print" and a line end with three spaces."""

    name: str
    sha256: str
    ids: tuple[int, int, int]


STARCODER_SHA256 = "ac3ceda902fed91ccf74312b305d9b86c37e4f8e35fa9cc6ef3ce34fca7d4678"
STARCODER2_SHA256 = "fedb892b4e1bd3c1f2fcdae356440b14fb458f4264d586e5c987ed93df4e174d"
RELEASED = {
    "starcoder": Released("refact", STARCODER_SHA256, (589, 1459, 284)),
    "starcoder2": Released("starcoder", STARCODER2_SHA256, (610, 1489, 303)),
}


@pytest.fixture(scope="module")
def archive() -> Path:
    """The source package, downloaded once."""
    folder = Path(os.environ.get("MEGACODE_TEST_CACHE") or Path.home() / ".cache" / "megacode-tests")
    if not (folder / ARCHIVE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--quiet"]
        command += ["--no-binary", "llama-cpp-python", "--dest", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{PACKAGE} with the released vocabularies took more than 400 s to download")
        if done.returncode or not (folder / ARCHIVE).is_file():
            pytest.skip(f"{PACKAGE} with the released vocabularies cannot be downloaded: {done.stderr[-300:]}")
    return folder / ARCHIVE


def member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as package:
        file = package.extractfile(MODELS + name)
        assert file is not None, name
        return file.read()


@pytest.fixture(scope="module", params=sorted(RELEASED))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def released(archive: Path, family: str, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The family's vocabulary, saved as a tokenizer.json and taken in as a user would."""
    raw = member(archive, f"{RELEASED[family].name}.gguf")
    assert hashlib.sha256(raw).hexdigest() == RELEASED[family].sha256
    folder = tmp_path_factory.mktemp(family)
    rebuild(raw, TOKENS).save(str(folder / "tokenizer.json"))
    return import_tokenizer(folder / "tokenizer.json", folder / "imported")


def test_all_published_vectors(archive: Path, family: str, released: Tokenizer) -> None:
    name = RELEASED[family].name
    texts = member(archive, f"{name}.gguf.inp").decode("utf-8").split(BETWEEN)
    rows = member(archive, f"{name}.gguf.out").decode("utf-8").split("\n")
    expected = [[int(number) for number in row.split()] for row in rows]
    assert len(texts) == 47
    expected = expected[: len(texts)]
    assert [released.encode(text) for text in texts] == expected
    assert released.encode_batch(texts) == expected
    assert [released.decode_bytes(ids) for ids in expected] == [text.encode() for text in texts]


def test_special_tokens_and_well_known_ids(family: str, released: Tokenizer) -> None:
    assert released.vocab_size == TOKENS
    assert released.special == {text: token for token, text in enumerate(SENTINELS[family])}
    words = [released.encode(text) for text in ("def", " print", "\n   ")]
    assert words == [[token] for token in RELEASED[family].ids]
    assert len(released.encode(" 1")) == 2 and len(released.encode("2024")) == 4
    assert released.table.starts_word[list(RELEASED[family].ids)].tolist() == [False, True, False]


def test_the_bytes_that_were_lost_are_named_and_never_dropped_in_silence(released: Tokenizer, tmp_path: Path) -> None:
    assert released.missing_bytes == MISSING
    lost = "before \U00040000 after"
    assert released.loses(lost) and not released.loses("naïve 日本語 🙂")
    for encode in (released.encode, lambda text: released.encode_batch(["fine", text])):
        with pytest.raises(DataError, match=r"cannot hold '\\U00040000' in 'before .* all 256 bytes"):
            encode(lost)
    (ids,) = released.encode_batch([lost], keep_lossy=True)
    assert released.decode_bytes(ids) == lost.encode().replace(b"\xf1", b"")
    texts = ("a", lost, "b")
    write_documents(tmp_path / "in.jsonl.zst", [Document(text, f"{text}.py", "python", text) for text in texts])
    dropped = tokenize(tmp_path / "in.jsonl.zst", released, tmp_path / "dropped")
    kept = tokenize(tmp_path / "in.jsonl.zst", released, tmp_path / "kept", lossy="keep")
    assert (dropped.documents, dropped.dropped, dropped.lossy) == (2, {LOSSY: 1}, 1)
    assert (kept.documents, kept.dropped, kept.lossy) == (3, {}, 1)
    assert ShardReader(tmp_path / "kept").documents == 3
