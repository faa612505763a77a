"""A checkpoint is read in any layout: right, and hardly more of it than what is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rankless import optimizers_of, save_rankless
from tiny import tiny_config

from megacode.checkpoint.coverage import Stretch, check_stretches
from megacode.checkpoint.errors import CheckpointError, Damage
from megacode.checkpoint.manifest import KINDS, Manifest, whole
from megacode.checkpoint.read import CheckpointReader, verify
from megacode.checkpoint.restore import load_shard
from megacode.checkpoint.rewrite import convert
from megacode.checkpoint.runs import common_runs, windows
from megacode.config.schema import RunConfig

MODEL = {"hidden": 256, "vocab": 1024, "layers": 4}
CHANGES = [
    ({"tp": 2, "pp": 2}, {}),
    ({}, {"tp": 2, "pp": 2}),
    ({"dp": 2}, {"tp": 4}),
    ({"tp": 4}, {"dp": 4}),
    ({"dp": 4, "pp": 2}, {"dp": 3, "tp": 2}),
    ({"tp": 2, "dp": 2}, {"pp": 2, "schedule": "interleaved", "dp": 2}),
    ({"pp": 4}, {"tp": 2, "dp": 4}),
]


def config_of(parallel: dict, **optim: object) -> RunConfig:
    """A model large enough that what is read twice would show."""
    kv = {**MODEL, "kv_heads": 4}
    return tiny_config(model=kv, parallel=parallel, train={"global_batch": 24}, optim=optim)


@pytest.mark.parametrize(("saved_in", "read_in"), CHANGES)
def test_another_layout_reads_hardly_more_than_it_needs(saved_in: dict, read_in: dict, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save_rankless(folder, config_of(saved_in))
    buckets = {"bucket_megabytes": 3.0} if read_in.get("dp") else {}
    whole_reader = CheckpointReader(folder)
    for groups, optimizer in optimizers_of(config_of(read_in, **buckets)):
        for kind in KINDS:
            optimizer.state[kind].fill_(float("nan"))
        reader = CheckpointReader(folder)
        load_shard(reader, optimizer, groups, KINDS)
        needed = 0
        for segment, elements in optimizer.owned_segments():
            needed += 4 * len(elements) * len(KINDS)
            place = segment.spec.local_slice(groups.tp.size, groups.tp.index)
            part = slice(elements.start - segment.start, elements.stop - segment.start)
            for kind in KINDS:
                expected = whole_reader.tensor(kind, segment.spec.name)[place].reshape(-1)[part]
                assert torch.equal(optimizer.in_shard(optimizer.state[kind], elements), expected)
        assert reader.bytes_read <= 1.2 * needed, f"rank {groups.rank}: {reader.bytes_read / needed:.3f}"


def test_a_conversion_holds_the_same_numbers_in_files_of_the_length_asked_for(tmp_path: Path) -> None:
    save_rankless(tmp_path / "saved", config_of({"tp": 2, "pp": 2}))
    convert(tmp_path / "saved", tmp_path / "all", file_bytes=1 << 20)
    convert(tmp_path / "saved", tmp_path / "weights", kinds=("master",), dtype="BF16")
    reader, converted, small = (CheckpointReader(tmp_path / name) for name in ("saved", "all", "weights"))
    verify(tmp_path / "all", converted.manifest)
    assert len(converted.manifest.files) > 10
    assert all(file.bytes < 1.1 * (1 << 20) for file in converted.manifest.files.values())
    for name in reader.manifest.tensors:
        for kind in KINDS:
            assert torch.equal(converted.tensor(kind, name), reader.tensor(kind, name))
        assert torch.equal(small.tensor("master", name), reader.tensor("master", name).bfloat16().float())
    assert small.manifest.kinds == ("master",)
    with pytest.raises(CheckpointError, match="holds master only, no exp_avg"):
        small.tensor("exp_avg", name)
    with pytest.raises(CheckpointError, match="is there already"):
        convert(tmp_path / "saved", tmp_path / "all")


def boxes(shape: tuple[int, ...]) -> st.SearchStrategy[Stretch]:
    """Any stretch of a tensor of this shape."""

    def stretch(bounds: tuple[tuple[int, int], ...], ends: tuple[float, float]) -> Stretch:
        elements = whole(tuple(high - low for low, high in bounds)).stop
        start, stop = sorted(int(end * elements) for end in ends)
        return Stretch(bounds, start, max(stop, start + 1) if start < elements else start)

    side = [
        st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(lambda ends: (min(ends), max(ends)))
        for length in shape
    ]
    sound = st.tuples(*side).map(lambda bounds: tuple((low, max(high, low + 1)) for low, high in bounds))
    return st.builds(stretch, sound, st.tuples(st.floats(0, 1), st.floats(0, 1)))


def elements(shape: tuple[int, ...], stretch: Stretch) -> list[int]:
    """The flat numbers, in the whole tensor, of a stretch's elements."""
    numbers = torch.arange(whole(shape).stop).view(shape)
    return numbers[tuple(slice(*side) for side in stretch.bounds)].reshape(-1)[stretch.start : stretch.stop].tolist()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_runs_are_the_common_elements_and_windows_hold_each_block_once(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple))
    wanted, stored = data.draw(boxes(shape)), data.draw(boxes(shape))
    runs = common_runs(wanted, stored)
    ours, theirs = elements(shape, wanted), elements(shape, stored)
    pairs = [(run.target + i, run.source - stored.start + i) for run in runs for i in range(run.length)]
    assert [ours[one] for one, _ in pairs] == [theirs[other] for _, other in pairs]
    assert sorted(ours[one] for one, _ in pairs) == sorted({*ours} & {*theirs})
    block, most = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    found = list(windows(runs, block, most))
    assert [run for window in found for run in window.runs if run.length < 0] == []
    copied = [
        (run.target + i, run.source - stored.start + i) for w in found for run in w.runs for i in range(run.length)
    ]
    assert copied == pairs
    blocks = [number for window in found for number in range(window.first, window.stop)]
    assert len(blocks) == len({*blocks})
    assert {*blocks} == {(other + stored.start) // block for _, other in pairs}


def test_stretches_that_do_not_make_up_the_tensor_once_are_refused() -> None:
    left, right = ((0, 4), (0, 2)), ((0, 4), (2, 6))
    check_stretches("t", (4, 6), [Stretch(left, 0, 8), Stretch(right, 5, 16), Stretch(right, 0, 5)])
    for stretches in (
        [Stretch(left, 0, 8)],
        [Stretch(left, 0, 8), Stretch(right, 0, 15)],
        [Stretch(left, 0, 8), Stretch(right, 0, 6), Stretch(right, 5, 16)],
        [Stretch(left, 0, 8), Stretch(right, 0, 5), Stretch(right, 6, 16)],
        [Stretch(left, 0, 8), Stretch(right, 0, 16), Stretch(((0, 1), (1, 3)), 0, 2)],
        [Stretch(left, 0, 8), Stretch(((0, 4), (2, 7)), 0, 20)],
        [Stretch(left, 0, 8), Stretch(((0, 4),), 0, 4)],
    ):
        with pytest.raises(Damage, match=r"^t:"):
            check_stretches("t", (4, 6), stretches)


def test_the_manifest_says_what_it_was_told(tmp_path: Path) -> None:
    written = save_rankless(tmp_path / "saved", config_of({"tp": 2}))
    assert Manifest.read(tmp_path / "saved") == written
