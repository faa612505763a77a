"""A checkpoint that is not as it was written is refused by file and reason; never is a wrong number loaded."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from damaged_checkpoint import ANY_FILE, change_manifest, wrong_manifest
from rankless import optimizers_of, save_rankless
from tiny import tiny_config
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.manifest import KINDS
from megacode.checkpoint.read import CheckpointReader, verify
from megacode.checkpoint.restore import load_shard
from megacode.config.schema import RunConfig

CASES = 240


def config_of(**parallel: int) -> RunConfig:
    """A small model."""
    return tiny_config(parallel=parallel)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one run, `one` and `two`, with the same names and other numbers."""
    folder = tmp_path_factory.mktemp("saved")
    save_rankless(folder / "one", config_of(tp=2, dp=2))
    seeded = tiny_config(parallel={"tp": 2, "dp": 2}, train={"seed": 7})
    save_rankless(folder / "two", seeded, step=2)
    return folder


@pytest.fixture(scope="module")
def numbers(saved: Path) -> Mapping[tuple[str, str], Tensor]:
    """Everything that is in `one`."""
    return everything(CheckpointReader(saved / "one"))


def everything(reader: CheckpointReader) -> dict[tuple[str, str], Tensor]:
    """Every tensor of every kind."""
    return {
        (kind, name): reader.tensor(kind, name) for kind in reader.manifest.kinds for name in reader.manifest.tensors
    }


def check_refused_or_right(folder: Path, numbers: Mapping[tuple[str, str], Tensor], what: str) -> bool:
    """Whether the checkpoint is refused; what can be read of one that is not must be right."""
    try:
        found = everything(CheckpointReader(folder))
    except CheckpointError as error:
        assert str(folder) in str(error), f"{what}: {error} names no file"
        return True
    assert found.keys() <= numbers.keys(), what
    for key, values in found.items():
        assert torch.equal(values, numbers[key]), f"{what}: {key} is wrong"
    return False


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_are_refused_and_nothing_wrong_is_loaded(
    part: int, saved: Path, numbers: Mapping[tuple[str, str], Tensor], tmp_path: Path
) -> None:
    refused = 0
    for case in range(part * CASES // 4, (part + 1) * CASES // 4):
        draw, folder = random.Random(case), tmp_path / str(case)
        shutil.copytree(saved / "one", folder)
        if case % 3:
            path = draw.choice(sorted(folder.iterdir()))
            what = draw.choice(ANY_FILE)(path, draw)
        else:
            what = wrong_manifest(folder, draw)
        was_refused = check_refused_or_right(folder, numbers, f"case {case}: {what}")
        if not was_refused:
            _check_what_nobody_reads(folder, what)
        refused += was_refused
        shutil.rmtree(folder)
    assert refused > 0.85 * CASES / 4, f"only {refused} of {CASES // 4} were refused"


def _check_what_nobody_reads(folder: Path, what: str) -> None:
    """What reading the tensors does not meet lies in a header, in blanks of the manifest or beside the tensors."""
    try:
        verify(folder, CheckpointReader(folder).manifest)
    except Damage as error:
        assert "header" in str(error), what


def test_files_of_another_checkpoint_are_found_out(saved: Path, tmp_path: Path) -> None:
    for number, name in enumerate(path.name for path in sorted((saved / "one").iterdir())):
        folder = tmp_path / str(number)
        shutil.copytree(saved / "one", folder)
        shutil.copy(saved / "two" / name, folder / name)
        with pytest.raises(Damage, match=str(folder)):
            everything(CheckpointReader(folder))
        if name.endswith("safetensors"):  # with its own checksums beside it, it is still another's
            shutil.copy(saved / "two" / f"{name}.crc32", folder / f"{name}.crc32")
            with pytest.raises(Damage, match="not those that the manifest knows"):
                everything(CheckpointReader(folder))


def test_a_name_that_leads_out_of_the_folder_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved / "one", folder)
    for ending in ("", ".crc32"):
        (folder / f"rank_00000.safetensors{ending}").rename(tmp_path / f"rank_00000.safetensors{ending}")

    def lead_out(table: dict) -> None:
        table["files"]["../rank_00000.safetensors"] = table["files"].pop("rank_00000.safetensors")
        for tensor in table["tensors"].values():
            for piece in tensor["pieces"]:
                if piece["file"] == "rank_00000.safetensors":
                    piece["file"] = "../rank_00000.safetensors"

    change_manifest(folder, lead_out)
    with pytest.raises(Damage, match=r"manifest\.json"):
        CheckpointReader(folder)


def test_damage_that_a_rank_does_not_read_does_not_stop_it(saved: Path, tmp_path: Path) -> None:
    """Each rank checks exactly what it reads: the first tensor-parallel rank needs nothing of the second's half."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved / "one", folder)
    half = CheckpointReader(folder).manifest.tensors["layers.0.mlp.up.weight"].pieces
    file, offset = next((one.file, one.stored["master"].offset) for one in half if one.bounds[0][0] > 0)
    content = bytearray((folder / file).read_bytes())
    content[offset + 8] ^= 4
    (folder / file).write_bytes(content)
    failures = []
    for groups, optimizer in optimizers_of(config_of(tp=2)):
        try:
            load_shard(CheckpointReader(folder), optimizer, groups, KINDS)
        except Damage as error:
            failures.append((groups.rank, str(error)))
    assert [rank for rank, _ in failures] == [1]
    assert file in failures[0][1] and "master/layers.0.mlp.up.weight is damaged" in failures[0][1]


def test_version_1_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "megacode-checkpoint", "version": 1, "state": {}}')
    with pytest.raises(CheckpointError, match="is version 1 of megacode-checkpoint, this program reads 2"):
        CheckpointReader(tmp_path)
