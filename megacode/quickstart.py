"""The main job: chains the public commands, each in a process of its own, and keeps what is already done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from megacode import console
from megacode.config import RunConfig, load_config
from megacode.errors import MegacodeError

PREFIXES = ("def read_file(path):\n", "import os\nimport sys\n\n\nclass ", "    def __init__(self, ")
MIDDLES = (
    ("def area(width, height):\n    return ", "\n\n\nprint(area(2, 3))\n"),
    ("try:\n    value = int(text)\nexcept ", ":\n    value = 0\n"),
)


class QuickstartError(MegacodeError):
    """A step of the quickstart failed; its own message stands above."""


def quickstart(run: Path, overrides: list[str], source: Path | None, out: Path) -> None:
    """Run prepare, tokenizer, tokenize, train, export, complete and report into the folder `out`.

    `run` and `overrides` configure the training; data, tokenizer and run folder are placed in `out`. Raises ConfigError
    before anything starts, QuickstartError if a step fails.
    """
    places = {
        "data.train": out / "shards" / "train",
        "data.validation": out / "shards" / "validation",
        "data.tokenizer": out / "tokenizer",
        "checkpoint.folder": out / "run",
    }
    settings = [*(f"{key}={json.dumps(str(path))}" for key, path in places.items()), *overrides]
    config = load_config(run, settings)
    folder = Path(config.checkpoint.folder)
    _prepare_data(config, source, out)
    _train(config, run, settings)
    _megacode("export", str(folder), "--out", str(out / "model"))
    _complete(folder)
    page = out / "report.html"
    _megacode("report", str(folder), "--out", str(page), "--manifest", str(out / "documents" / "manifest.json"))
    console.say(f"\nThe model is in {out / 'model'}, the report in {page}")


def _prepare_data(config: RunConfig, source: Path | None, out: Path) -> None:
    documents = out / "documents"
    chosen = [] if source is None else ["--source", str(source)]
    _megacode("prepare", *chosen, "--out", str(documents))
    train = str(documents / "train")
    _megacode("tokenizer", "train", train, "--out", config.data.tokenizer, "--vocab-size", str(config.model.vocab))
    for part, prefix in (("train", config.data.train), ("validation", config.data.validation)):
        file = str(documents / part)
        _megacode("tokenize", file, "--tokenizer", config.data.tokenizer, "--prefix", prefix)


def _train(config: RunConfig, run: Path, settings: list[str]) -> None:
    ranks = config.parallel.world_size
    launcher = ("torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}", "-m")
    _python(*launcher, "megacode", "train", str(run), *settings)
    if not (Path(config.checkpoint.folder) / "FINISHED").is_file():
        raise QuickstartError("training was stopped before its last step; run the same command again to go on")


def _complete(folder: Path) -> None:
    """Let the model complete a few prefixes and middles, and keep them for the report."""
    from megacode.evaluate.complete import Completer, Sampling

    completer, sampling = Completer.load(folder), Sampling(max_tokens=48, temperature=0.5)
    tasks = [("prefix", prefix, None) for prefix in PREFIXES] + [("middle", *task) for task in MIDDLES]
    rows = []
    for kind, prefix, suffix in tasks:
        completion = completer.complete(prefix, suffix, sampling)
        rows.append({"kind": kind, "prefix": prefix, "suffix": suffix or "", "completion": completion})
        console.say(f"--- {kind}\n{prefix}[[{completion}]]{suffix or ''}")
    (folder / "completions.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _megacode(*arguments: str) -> None:
    _python("megacode", *arguments)


def _python(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    console.say("\n$ " + " ".join(["megacode" if module == "megacode" else f"python -m {module}", *arguments]))
    if subprocess.run(command, check=False).returncode != 0:
        raise QuickstartError(f"the step `{arguments[0] if module == 'megacode' else 'train'}` failed")
