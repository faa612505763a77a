"""The house rules hold for the whole tree, and a planted violation of each is found at its line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load(name: str) -> ModuleType:
    """Load a neighbour of this file, which pytest's importlib mode does not put on the path."""
    full = f"megacode_house_{name}"
    spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


checker, floors = _load("checker"), _load("floors")


def _sources(root: Path, *folders: str) -> Iterator[Any]:
    """Every Python file of the folders; megacode/kernels is a link to kernels/ and is read there once."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if path.is_relative_to(root / "megacode" / "kernels") or "__pycache__" in path.parts:
                continue
            yield checker.read_source(path, root)


def check_tree(root: Path) -> list[Any]:
    """All findings below `root`."""
    found: list[Any] = []
    for source in _sources(root, "megacode", "kernels", "launch", "tests"):
        found += [*checker.check_sizes(source), *checker.check_everywhere(source)]
        if source.inner:
            found += [*checker.check_package(source), *floors.check_floors(source)]
    return found


def test_the_tree_keeps_the_house_rules() -> None:
    found = check_tree(ROOT)
    assert not found, f"{len(found)} findings\n" + "\n".join(map(str, found))


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    rooms = {path.name for path in (ROOT / "megacode").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms - set(floors.FLOORS) - floors.ENTRANCES == set()


def _plant(root: Path, name: str, text: str) -> list[tuple[int, str]]:
    """Line and rule of every finding in a tree that holds this one file."""
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = check_tree(root)
    assert all(finding.path == name and str(finding).startswith(f"{name}:{finding.line}: ") for finding in found)
    return [(finding.line, finding.rule) for finding in found]


# Name of the file, its text, and what must be found: line and rule.
VIOLATIONS = [
    ("megacode/data/a.py", "x = 1\n" * 401, [(1, "file too long")]),
    ("tests/unit/a.py", "def f():\n" + "    x = 1\n" * 80, [(1, "function too long")]),
    ("megacode/data/a.py", "def f(a, b, c, d, e, f, *, g, h, i, j, **k): ...", [(1, "too many parameters")]),
    ("kernels/a.py", "\nasync def f(a, b, c, d, e, f, g, h, i, j, /, *k): ...", [(2, "too many parameters")]),
    ("megacode/data/a.py", "def f():\n    global x\n    x = 1", [(2, "global")]),
    ("megacode/data/a.py", "x = []", [(1, "module state")]),
    ("megacode/data/a.py", "x: dict[str, int] = {'a': 1}", [(1, "module state")]),
    ("megacode/data/a.py", "if True:\n    x = {1}", [(2, "module state")]),
    ("megacode/data/a.py", "try:\n    x = 1\nexcept OSError:\n    x = 2\nelse:\n    y = list()", [(6, "module state")]),
    ("megacode/data/a.py", "import collections\nx = collections.defaultdict(list)", [(2, "module state")]),
    ("megacode/data/a.py", "x = dict[str, int]()", [(1, "module state")]),
    ("megacode/data/a.py", "x = {a: 1 for a in 'ab'}", [(1, "module state")]),
    ("megacode/data/a.py", "x, y = 1, [2]", [(1, "module state")]),
    ("megacode/data/a.py", "import os\nx = os.environ['A']", [(2, "environment")]),
    ("megacode/data/a.py", "import os\ndef f():\n    return os.getenv('A')", [(3, "environment")]),
    ("kernels/a.py", "from os import environ", [(1, "environment")]),
    ("megacode/data/a.py", "def f():\n    print(1)", [(2, "print")]),
    ("megacode/data/a.py", "f = print", [(1, "print")]),
    ("megacode/data/a.py", "try:\n    pass\nexcept Exception:\n    x = None", [(3, "swallowed exception")]),
    ("megacode/data/a.py", "try:\n    pass\nexcept:\n    pass", [(3, "swallowed exception")]),
    ("megacode/data/a.py", "try:\n    x\nexcept (OSError, BaseException) as e:\n    y", [(3, "swallowed exception")]),
    ("megacode/data/a.py", "import contextlib as c\nwith c.suppress(Exception):\n    x", [(2, "swallowed exception")]),
    ("megacode/train/a.py", "import torch.distributed as dist", [(1, "communication")]),
    ("megacode/train/a.py", "from torch.distributed import all_reduce", [(1, "communication")]),
    ("megacode/parallel/a.py", "from torch import distributed", [(1, "communication")]),
    ("megacode/train/a.py", "import torch\ndef f():\n    torch.distributed.barrier()", [(3, "communication")]),
    ("megacode/train/a.py", "import pickle", [(1, "pickle")]),
    ("tests/unit/a.py", "from pickle import dumps", [(1, "pickle")]),
    ("tests/unit/a.py", "import torch\ntorch.save(1, 'x')", [(2, "pickle")]),
    ("megacode/train/a.py", "from torch import load", [(1, "pickle")]),
    ("megacode/data/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)", [(2, "pickle")]),
    ("tests/unit/a.py", "import kernels", [(1, "import kernels")]),
    ("launch/a.py", "from kernels.reference import x", [(1, "import kernels")]),
    ("tests/unit/a.py", "import importlib\nimportlib.import_module('kernels')", [(2, "import kernels")]),
    ("megacode/data/a.py", "from megacode.layers import x", [(1, "floors")]),
    ("megacode/data/a.py", "def f():\n    import megacode.train.loop", [(2, "floors")]),
    ("megacode/data/a.py", "import typing\nif typing.TYPE_CHECKING:\n    from megacode import model", [(3, "floors")]),
    ("megacode/data/prepare/a.py", "from ...metrics import x", [(1, "floors")]),
    ("megacode/data/a.py", "from .. import parallel", [(1, "floors")]),
    ("megacode/pipeline/a.py", "from megacode.optim import x", [(1, "floors")]),
    ("megacode/config/a.py", "from megacode.layout import x", [(1, "floors")]),
    ("megacode/train/a.py", "from megacode.cli import x", [(1, "floors")]),
    ("megacode/train/a.py", "from megacode.attic import x", [(1, "floors")]),
    ("megacode/attic/a.py", "x = 1", [(1, "floors")]),
    ("megacode/console.py", "from megacode.config import x", [(1, "floors")]),
    ("kernels/a.py", "from megacode.config import x", [(1, "floors")]),
    ("megacode/__init__.py", "from megacode.config import x", [(1, "floors")]),
    ("megacode/data/a.py", "import importlib\nimportlib.import_module('megacode.prove')", [(2, "floors")]),
    ("megacode/plan/a.py", "import torch", [(1, "torch")]),
    ("megacode/config/a.py", "def f():\n    from torch import nn", [(2, "torch")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), VIOLATIONS, ids=lambda value: str(value)[:40])
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str]]) -> None:
    assert _plant(tmp_path, name, text) == expected


def test_every_rule_has_a_planted_violation() -> None:
    planted = {rule for _, _, expected in VIOLATIONS for _, rule in expected}
    assert planted == set(checker.RULES)


ALLOWED = [
    ("megacode/data/a.py", "__all__ = ['x']\nX = (1, 2)\nY = frozenset({1})\ndef f():\n    x = []\n    return x"),
    ("megacode/data/a.py", "from types import MappingProxyType\nX = MappingProxyType({'a': 1})"),
    ("megacode/data/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h, i, j): ..."),
    ("kernels/a.py", "import triton\n@triton.jit\ndef f(a, b, c, d, e, f, g, h, i, j, k, l): ..."),
    ("megacode/data/a.py", "try:\n    pass\nexcept Exception as e:\n    raise ValueError('x') from e"),
    ("megacode/data/a.py", "from megacode.console import say\ntry:\n    pass\nexcept Exception as e:\n    say(str(e))"),
    ("megacode/data/a.py", "try:\n    pass\nexcept (OSError, ValueError):\n    pass"),
    ("megacode/cli/data.py", "import os\nfrom megacode.prove import x\nfrom megacode.config import y\nX = os.environ"),
    ("megacode/__main__.py", "from megacode.cli import main\nmain()"),
    ("megacode/console.py", "print(1)"),
    ("launch/a.py", "import os\nprint(os.environ['A'])"),
    ("megacode/parallel/groups.py", "import torch\nimport torch.distributed as dist"),
    ("megacode/pipeline/links.py", "from torch import distributed"),
    ("megacode/data/a.py", "import numpy as np\nnp.load('x', allow_pickle=False)\nimport torch\nt = torch.zeros"),
    ("megacode/config/a.py", "from megacode.console import say\nfrom megacode.config.schema import x\nfrom . import y"),
    ("megacode/layers/a.py", "import megacode.kernels\nimport megacode.parallel.x\nfrom megacode import errors"),
    ("megacode/prove/a.py", "from megacode.train import x\nfrom megacode.layout.topology import y"),
    ("kernels/a.py", "from megacode.kernels.reference import x\nfrom .reference import y"),
    ("tests/unit/a.py", "import os\nimport torch.distributed\nX = []\nprint(os.environ)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), ALLOWED, ids=lambda value: str(value)[:40])
def test_what_is_allowed_is_not_found(tmp_path: Path, name: str, text: str) -> None:
    assert _plant(tmp_path, name, text) == []
