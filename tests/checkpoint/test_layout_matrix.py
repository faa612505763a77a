"""Promise 2: saved in any layout, a run goes on in any other; bit for bit where the layout is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from disk_run import disk_config, losses, rows
from watched_saves import train_one_after_another

from megacode.checkpoint.folders import committed_folder
from megacode.config.schema import RunConfig
from megacode.prove.ranks import run_ranks

SAVED_AT, STEPS = 4, 9
LAYOUTS = MappingProxyType(
    {
        "alone": {},
        "tp2": {"parallel": {"tp": 2}},
        "dp2": {"parallel": {"dp": 2}, "optim": {"bucket_megabytes": 0.1}},
        "dp2-whole": {"parallel": {"dp": 2}, "optim": {"zero_stage": 0}},
        "chunks": {"parallel": {"pp": 2, "schedule": "interleaved"}},
        "pp2-tp2": {"parallel": {"pp": 2, "tp": 2}},
        "dp2-pp2": {"parallel": {"dp": 2, "pp": 2, "order": "tp-pp-dp"}, "optim": {"bucket_megabytes": 0.05}},
    }
)


def config_in(layout: str, data: Path, folder: Path, **checkpoint: Any) -> RunConfig:
    """A run of STEPS steps of four blocks in one of the layouts."""
    sections: dict[str, Any] = LAYOUTS[layout]
    return disk_config(
        *(data, folder),
        model={"layers": 4, "kv_heads": 2},
        parallel=sections.get("parallel", {}),
        optim={"lr": 1e-3, **sections.get("optim", {})},
        train={"steps": STEPS, "validate_every": 0},
        checkpoint={"folder": str(folder), "every": SAVED_AT, "keep": 9, **checkpoint},
    )


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of uninterrupted runs, one for each layout, each with a checkpoint of step SAVED_AT."""
    folder = tmp_path_factory.mktemp("matrix")
    by_size: dict[int, list[RunConfig]] = {}
    for layout in LAYOUTS:
        config = config_in(layout, data, folder / layout)
        by_size.setdefault(config.parallel.world_size, []).append(config)
    for size, configs in by_size.items():
        assert run_ranks(size, train_one_after_another, configs) == [len(configs)] * size
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("goes_on_in", LAYOUTS)
def test_what_any_layout_saved_goes_on_in_this_one(
    goes_on_in: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    configs = []
    for saved_in in LAYOUTS:
        shutil.copytree(
            committed_folder(undisturbed / saved_in, SAVED_AT), committed_folder(tmp_path / saved_in, SAVED_AT)
        )
        configs.append(config_in(goes_on_in, data, tmp_path / saved_in, every=0))
    size = configs[0].parallel.world_size
    assert run_ranks(size, train_one_after_another, configs) == [len(configs)] * size
    for saved_in in LAYOUTS:
        assert [row["step"] for row in rows(tmp_path / saved_in)] == list(range(SAVED_AT + 1, STEPS + 1))
        found, expected = losses(tmp_path / saved_in), losses(undisturbed / saved_in)[SAVED_AT:]
        if saved_in == goes_on_in:
            assert found == expected, "bit for bit"
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"{saved_in} -> {goes_on_in}")
