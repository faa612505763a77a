"""Data for runs on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from disk_run import make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and two shards."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder
