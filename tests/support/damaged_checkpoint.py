"""Ways in which a checkpoint can be other than it was written."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it the checksum that its new content has, as somebody might who knows the format."""
    path = folder / "manifest.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["checksum"]
    change(table)
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    table["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(table), encoding="utf-8")


def flip_bit(path: Path, draw: random.Random) -> str:
    """Turn one bit of a file; returns what was done."""
    content = bytearray(path.read_bytes())
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name}"


def cut_off(path: Path, draw: random.Random) -> str:
    """Lose the end of a file."""
    length = draw.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f"{path.name} cut to {length} bytes"


def overwrite(path: Path, draw: random.Random) -> str:
    """Write zeros, or noise, over a part of a file, as a lost page does."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    length = min(len(content) - at, draw.choice((1, 512, 4096)))
    content[at : at + length] = draw.choice((bytes(length), draw.randbytes(length)))
    path.write_bytes(content)
    return f"{length} bytes at {at} of {path.name}"


def grow(path: Path, draw: random.Random) -> str:
    """Add bytes at the end."""
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randint(1, 100)))
    return f"{path.name} grown"


def lose(path: Path, draw: random.Random) -> str:
    """Remove a file, or put a folder in its place."""
    path.unlink()
    if as_folder := draw.random() < 0.3:
        path.mkdir()
    return f"{path.name} lost" + " to a folder" * as_folder


def swap(path: Path, draw: random.Random) -> str:
    """Exchange two files."""
    other = draw.choice(sorted(entry for entry in path.parent.iterdir() if entry != path))
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
    return f"{path.name} and {other.name} swapped"


ANY_FILE = (flip_bit, flip_bit, cut_off, overwrite, grow, lose, swap)
WRONG_JSON = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"format":"megacode-checkpoint"}',
    b'{"format":"megacode-checkpoint","version":1,"state":{},"tensors":{},"files":{}}',
    b'{"format":"megacode-checkpoint","version":2,"checksum":"0"}',
    b'{"format":"another","version":2}',
    b"9" * 5000,
    b'{"format":"megacode-checkpoint","version":2,"x":NaN,"checksum":1e999}',
)


def _tensor(table: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = table["tensors"][draw.choice(sorted(table["tensors"]))]
    return found


def _piece(table: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = draw.choice(_tensor(table, draw)["pieces"])
    return found


def _stored(table: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = _piece(table, draw)["stored"][draw.choice(sorted(table["kinds"]))]
    return found


NUMBERS = (-1, -(2**31), 2**31, 2**62, 2**63, 2**64, 10**30, 0.5, "7", None, True, [], {})
NAMES = ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", "", ".safetensors", "x\0.safetensors", 5, None)


def _nonsense(table: dict[str, Any], draw: random.Random) -> object:
    """Put something where it does not belong. Somebody who changes manifests knows how to make a checksum."""
    number, name, tensor, piece = draw.choice(NUMBERS), draw.choice(NAMES), _tensor(table, draw), _piece(table, draw)
    changes: list[Callable[[], object]] = [
        lambda: piece.update(file=name),
        lambda: piece.update(start=number),
        lambda: piece.update(stop=number),
        lambda: piece["bounds"].__setitem__(0, [number, 3]),
        lambda: piece["bounds"].__setitem__(0, [0, number]),
        lambda: piece.update(bounds=[]),
        lambda: piece.pop(draw.choice(sorted(piece))),
        lambda: piece["stored"].popitem(),
        lambda: _stored(table, draw).update(offset=number),
        lambda: _stored(table, draw).update(table=number),
        lambda: _stored(table, draw).update(digest="0" * 16),
        lambda: _stored(table, draw).update(digest=number),
        lambda: tensor.update(shape=[number]),
        lambda: tensor["shape"].append(number),
        lambda: tensor.update(dtype=draw.choice(("BF16", "F64", number))),
        lambda: tensor.update(block=number),
        lambda: tensor["pieces"].pop(),
        lambda: tensor["pieces"].append(tensor["pieces"][0]),
        lambda: table["files"].popitem(),
        lambda: next(iter(table["files"].values())).update(bytes=number),
        lambda: table["files"].update({str(name): {"bytes": 1, "header_bytes": 1, "header_crc32": 0}}),
        lambda: table.update(kinds=draw.choice((["master"], ["exp_avg"], [], ["master", "master"], "master", number))),
        lambda: table["state"].update(step=number),
        lambda: table["state"].pop("config"),
        lambda: table.pop(draw.choice(("state", "tensors", "files", "kinds"))),
        lambda: table.update(tensors=number, files={}),
        lambda: table.update(surplus=number),
    ]
    return draw.choice(changes)()


def wrong_manifest(folder: Path, draw: random.Random) -> str:
    """Give a manifest wrong content and the right checksum, or something that is none."""
    if draw.random() < 0.25:
        text = draw.choice(WRONG_JSON)
        (folder / "manifest.json").write_bytes(text)
        return f"manifest is {text[:60]!r}"
    before = (folder / "manifest.json").read_bytes()
    change_manifest(folder, lambda table: _nonsense(table, draw))
    after = (folder / "manifest.json").read_bytes()
    return f"manifest of {len(before)} bytes changed to {len(after)}"
