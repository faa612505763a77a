"""Fifty megabytes of real code in several languages, end to end, in little memory, killed in the middle."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sysconfig
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import killed_run
import pytest
from corpus import result_of

from megacode.data.documents import read_documents

pytestmark = pytest.mark.slow
PACKAGES = ("typescript@5.4.5", "bootstrap@5.3.3", "rxjs@7.8.1")
MEMORY_BYTES = 4 << 30
BUCKET_BYTES = 8 << 20


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The running interpreter's standard library, and pinned packages of npm, downloaded once."""
    cache = Path(os.environ.get("MEGACODE_TEST_CACHE") or Path.home() / ".cache" / "megacode-tests")
    cache.mkdir(parents=True, exist_ok=True)
    archives = [cache / f"{package.replace('@', '-')}.tgz" for package in PACKAGES]
    if not all(archive.is_file() for archive in archives):
        if shutil.which("npm") is None:
            pytest.skip("needs npm to download packages")
        command = ["npm", "pack", "--silent", *PACKAGES]
        try:
            done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("npm took more than 120 s to download packages")
        if done.returncode:
            pytest.skip(f"npm cannot download packages: {done.stderr[-300:]}")
    folder = tmp_path_factory.mktemp("npm")
    for archive in archives:
        with tarfile.open(archive) as package:
            package.extractall(folder / archive.stem, filter="data")
    return [{"path": sysconfig.get_path("stdlib"), "licence": "PSF-2.0"}, {"path": str(folder)}]


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def options(sources: list[dict[str, Any]], out: Path, workers: int) -> dict[str, Any]:
    return {"sources": sources, "out": str(out), "executor": {"tasks": 6, "workers": workers}}


@pytest.fixture(scope="module")
def undisturbed(sources: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    process = killed_run.start(folder, options(sources, folder / "out", 2), BUCKET_BYTES, limited)
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(killed_run.resident_bytes, [process.pid, *killed_run.children(process.pid)])))
        time.sleep(0.05)
    killed_run.finish(process)
    assert 0 < most < MEMORY_BYTES
    return folder / "out"


def test_much_real_code_is_prepared_in_little_memory(undisturbed: Path) -> None:
    files = sorted((undisturbed / "train").iterdir())
    languages: Counter[str] = Counter()
    for path in files:
        for document in read_documents(path):
            languages[document.language] += len(document.content)
    text = (undisturbed / "manifest.json").read_text()
    assert len(files) >= 6 and '"near duplicates"' in text
    assert all(characters > 1_000_000 for _, characters in languages.most_common(3)), languages


def test_killed_in_the_middle_it_goes_on(sources: list[dict[str, Any]], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = killed_run.start(tmp_path, options(sources, out, 2), BUCKET_BYTES, limited)
    assert killed_run.kill_when(process, out, "work/*/data/finished/train/00002.jsonl.zst")
    killed_run.finish(killed_run.start(tmp_path, options(sources, out, 1), BUCKET_BYTES, limited))
    assert result_of(out) == result_of(undisturbed)
