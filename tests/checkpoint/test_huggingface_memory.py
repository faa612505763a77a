"""A model is converted tensor by tensor: memory is a multiple of the largest tensor, whatever the number of layers.

The bound that is asserted here gives StarCoder 15.5B, whose largest tensor is 49,152 x 6,144, less than 4 GiB.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megacode.checkpoint.huggingface.names import hub_shapes, logical_shapes, twin_of
from megacode.checkpoint.stream import Entry
from megacode.config.schema import ModelConfig

# 398 million parameters, 1.6 GB in fp32; the embedding has a sixth of them.
SHAPE = {"layers": 30, "hidden": 1024, "heads": 8, "vocab": 65536, "context": 8192}
SUPPORT = Path(__file__).parent.parent / "support"
CONSTANT = 128 << 20  # buffers of the streams, headers, fragments

PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from peak_memory import peak_bytes
from megacode.checkpoint.huggingface.export import export
from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
before = peak_bytes()
if sys.argv[1] == "import":
    import_model(Path(sys.argv[2]), Path(sys.argv[3]), ImportOptions(compare=False))
else:
    export(Path(sys.argv[2]), Path(sys.argv[3]), compare=False)
print(json.dumps({"before": before, "peak": peak_bytes()}))
"""


def write_sparse_hub(folder: Path, model: ModelConfig) -> None:
    """A Hugging Face folder in bf16 whose numbers are all 0 and take no room on the disk."""
    folder.mkdir()
    family = twin_of(model)
    (folder / "config.json").write_text(json.dumps(family.hub_config(model, 0, "bfloat16")))
    entries = [Entry(name, torch.bfloat16, shape) for name, shape in hub_shapes(family, model).items()]
    header = json.dumps(_table(entries)).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + sum(entry.bytes for entry in entries))


def _table(entries: list[Entry]) -> dict[str, object]:
    table: dict[str, object] = {}
    at = 0
    for entry in entries:
        table[entry.key] = {"dtype": "BF16", "shape": entry.shape, "data_offsets": [at, at + entry.bytes]}
        at += entry.bytes
    return table


def grown(*arguments: str) -> int:
    """Bytes by which a process grew while it converted."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, str(SUPPORT)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    return int(said["peak"] - said["before"])


@pytest.mark.slow
def test_import_and_export_hold_a_few_tensors_at_a_time(tmp_path: Path) -> None:
    model = ModelConfig(**SHAPE)
    largest = 4 * max(math.prod(shape) for shape in logical_shapes(model).values())
    whole = 4 * sum(math.prod(shape) for shape in logical_shapes(model).values())
    write_sparse_hub(tmp_path / "hub", model)
    bound = 2 * largest + CONSTANT
    assert bound < 0.5 * whole, "the test must be able to fail"
    taken = grown("import", str(tmp_path / "hub"), str(tmp_path / "base"))
    given = grown("export", str(tmp_path / "base"), str(tmp_path / "back"))
    assert taken < bound, f"import took {taken / largest:.2f} x the largest tensor"
    assert given < bound, f"export took {given / largest:.2f} x the largest tensor"
    starcoder = 2 * 4 * 49152 * 6144 + CONSTANT
    assert starcoder < 8 << 30
