"""What takes part in a benchmark: our engine in each layout and precision, variants of it, and other engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from megacode.config import load_config
from megacode.config.schema import RunConfig
from megacode.prove.layouts import Layout, WrongCall

OURS = "megacode"
PEERS = MappingProxyType(
    {
        "transformers": "transformers_loop.py",
        "plain": "plain.py",
        "megatron-core": "megatron_core.py",
        "torchtitan": "torchtitan_engine.py",
    }
)


@dataclass(frozen=True)
class Request:
    """What the user asked for: comma-separated layouts and precisions ("": the run's own), peers, variants of ours."""

    run: Path
    overrides: tuple[str, ...] = ()
    layouts: str = ""
    precisions: str = ""
    against: str = ""
    variants: tuple[str, ...] = ()
    peers_python: Path = Path(sys.executable)


@dataclass(frozen=True)
class Contender:
    """One engine in one layout and precision. `command` starts a rank, with its setup as JSON to be added."""

    engine: str
    layout: str
    config: RunConfig
    command: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is our engine, with or without a variant's settings."""
        return self.engine.partition(" ")[0] == OURS

    @property
    def cell(self) -> tuple[str, str]:
        """Layout and precision: those who share them are compared."""
        return self.layout, self.config.train.precision


def contenders(request: Request) -> list[Contender]:
    """All of them, our engine first in each cell.

    Raises WrongCall for an unknown peer or layout, ConfigError for a configuration that cannot run.
    """
    return list(_contenders(request))


def _contenders(request: Request) -> Iterator[Contender]:
    peers = _names(request.against)
    if unknown := [peer for peer in peers if peer not in PEERS]:
        raise WrongCall(f"--against {', '.join(unknown)}: unknown peer; known: {', '.join(PEERS)}")
    for precision in _names(request.precisions) or [""]:
        for layout in _names(request.layouts) or [""]:
            chosen = [*request.overrides, *layout_overrides(layout)]
            chosen += [f"train.precision={precision}"] if precision else []
            config = load_config(request.run, chosen)
            label = layout or layout_of(config)
            yield Contender(OURS, label, config, _our_command())
            for variant in request.variants:
                changed = load_config(request.run, [*chosen, *variant.split()])
                yield Contender(f"{OURS} {variant}", label, changed, _our_command())
            for peer in peers:
                yield Contender(peer, label, config, _peer_command(request.peers_python, peer))


def layout_overrides(text: str) -> list[str]:
    """Overrides for `TPxPPxDP[:SCHEDULE[:CHUNKS]]`; none for "". Raises WrongCall for anything else."""
    if not text:
        return []
    return [f"parallel.{name}={json.dumps(value)}" for name, value in Layout.parse(text).settings().items()]


def layout_of(config: RunConfig) -> str:
    """TPxPPxDP of a configuration."""
    parallel = config.parallel
    return f"{parallel.tp}x{parallel.pp}x{parallel.dp}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _our_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "megacode.prove.bench.ours")


def _peer_command(python: Path, peer: str) -> tuple[str, ...]:
    return (str(python), str(Path(__file__).parents[1] / "peers" / PEERS[peer]))
