"""docs/checkpoints.md is enough: who knows only json, safetensors and zlib gets every number, and checks it."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from rankless import save_rankless
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_config

from megacode.checkpoint.blocks import block_elements
from megacode.checkpoint.read import CheckpointReader
from megacode.checkpoint.stream import Entry, write_tensors


def test_a_reader_of_its_own_finds_every_number(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save_rankless(folder, tiny_config(parallel={"tp": 2, "dp": 2, "pp": 2}))
    table = json.loads((folder / "manifest.json").read_text())
    checksum = table.pop("checksum")
    assert hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == checksum
    reader = CheckpointReader(folder)
    for name, tensor in table["tensors"].items():
        for kind in table["kinds"]:
            whole = np.full(tensor["shape"], np.nan, dtype=np.float32)
            for piece in tensor["pieces"]:
                part = whole[tuple(slice(*side) for side in piece["bounds"])]
                values = part.reshape(-1).copy()
                with safe_open(folder / piece["file"], framework="np") as file:
                    values[piece["start"] : piece["stop"]] = file.get_tensor(f"{kind}/{name}")
                part[...] = values.reshape(part.shape)
                check_piece(folder, piece, kind, tensor["block"])
            assert np.array_equal(whole, reader.tensor(kind, name).numpy()), f"{kind}/{name}"


def check_piece(folder: Path, piece: dict, kind: str, block: int) -> None:
    """Compare a piece with its checksums, as the page says."""
    stored, start, stop = piece["stored"][kind], piece["start"], piece["stop"]
    data = (folder / piece["file"]).read_bytes()[stored["offset"] :][: 4 * (stop - start)]
    ends = [*range((start // block + 1) * block, stop, block), stop]
    begins = [start, *ends[:-1]]
    crcs = [zlib.crc32(data[4 * (low - start) : 4 * (high - start)]) for low, high in zip(begins, ends, strict=True)]
    own = b"".join(crc.to_bytes(4, "little") for crc in crcs)
    table = (folder / f"{piece['file']}.crc32").read_bytes()[stored["table"] :][: len(own)]
    assert own == table and hashlib.sha256(table).hexdigest()[:16] == stored["digest"]


def test_the_stream_writes_what_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "streamed.safetensors"
    tensors = {
        "a": torch.randn(300, 70),
        "b": torch.randn(5, 3).bfloat16(),
        "empty": torch.zeros(3, 0),
        "c": torch.arange(7),
        "turned": torch.randn(6, 9).half().t(),
    }
    entries = [Entry(name, value.dtype, tuple(value.shape), block=100) for name, value in tensors.items()]
    first, *rest = tensors.values()
    stored = write_tensors(path, entries, iter([first[:1], first[1:200], first[200:], *rest]), {"format": "pt"})
    found = load_file(path)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert stored.bytes == path.stat().st_size and len(stored.entries["a"].crcs) == 210
    assert stored.header_crc32 == zlib.crc32(path.read_bytes()[: stored.header_bytes])


def test_the_stream_refuses_values_that_are_not_the_entries(tmp_path: Path) -> None:
    entry = Entry("a", torch.float32, (4,))
    for values in ([], [torch.zeros(3)], [torch.zeros(5)], [torch.zeros(4).half()], [torch.zeros(4), torch.zeros(1)]):
        try:
            write_tensors(tmp_path / "x.safetensors", [entry], values)
        except ValueError:
            continue
        raise AssertionError(values)


def test_blocks_are_short_where_rows_are_cut_and_never_tiny() -> None:
    assert block_elements((49152, 6144), 0) == 16384
    assert block_elements((6144, 24576), 1) == 24576 // 16
    assert block_elements((6144,), None) == 384
    assert block_elements((48,), None) == 64
