"""Every layout against one process, on the user's own configuration with toy widths.

What differs is told by name: the parameter, the ranks that answer for it, and by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from megacode.config.schema import RunConfig
from megacode.errors import MegacodeError
from megacode.prove.outcome import Outcome, compute
from megacode.prove.shrink import MOST_REPLICAS, alone, shrink

GRADIENT_TOLERANCE = 1e-5
NORM_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Layout:
    """Ranks along each axis."""

    tp: int
    pp: int
    dp: int

    @classmethod
    def parse(cls, text: str) -> Layout:
        """From `2x2x1`: TP x PP x DP. Raises MegacodeError for anything else."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise MegacodeError(f"layout {text!r} must be TPxPPxDP, for example 2x2x1")
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"tp {self.tp} x pp {self.pp} x dp {self.dp}"


@dataclass(frozen=True)
class Finding:
    """Something that a layout computes differently. `error` is relative; nan: an element nobody computed."""

    what: str
    name: str
    ranks: tuple[int, ...]
    error: float

    def __str__(self) -> str:
        where = f" (ranks {', '.join(map(str, self.ranks))})" if self.ranks else ""
        return f"{self.what} {self.name}{where}: relative error {self.error:.1e}"


@dataclass(frozen=True)
class Verdict:
    """What one layout was found to compute; sound without findings. Worst relative errors beside one process."""

    layout: Layout
    findings: tuple[Finding, ...]
    gradient_error: float
    norm_error: float
    loss_error: float


def default_layout(config: RunConfig) -> Layout:
    """The configuration's own mix, with at most two replicas: more of them are more of the same."""
    return Layout(config.parallel.tp, config.parallel.pp, min(config.parallel.dp, MOST_REPLICAS))


def verify(config: RunConfig, layout: Layout, worker: object = None) -> Verdict:
    """Train the toy twin of `config` in `layout` and in one process, and compare; see `outcome.compute` for `worker`.

    Raises ConfigError if the twin cannot be cut that way, RankFailure if a rank fails.
    """
    toy = shrink(config, layout.tp, layout.pp, layout.dp)
    return compare(layout, compute(toy, worker), compute(alone(toy)))


def compare(layout: Layout, found: Outcome, expected: Outcome) -> Verdict:
    """Weigh what a layout computed against one process."""
    gradients = {name: _error(found.gradients.get(name), value) for name, value in expected.gradients.items()}
    norm = _error(np.array(found.norms), np.array(expected.norms))
    first_norm = _error(np.array(found.norms[:1]), np.array(expected.norms[:1]))
    loss = _error(np.array(found.losses), np.array(expected.losses))
    findings = tuple(_findings(found, expected, gradients, first_norm, loss))
    return Verdict(layout, findings, max(gradients.values()), norm, loss)


def render(verdicts: Sequence[Verdict]) -> str:
    """A line per layout, and one per finding under it."""
    lines = []
    for verdict in verdicts:
        worst = f"gradient {verdict.gradient_error:.1e}, norm {verdict.norm_error:.1e}, loss {verdict.loss_error:.1e}"
        lines.append(f"{verdict.layout}: {'DIFFERS' if verdict.findings else 'the same model'} (worst {worst})")
        lines += [f"  {finding}" for finding in verdict.findings]
    return "\n".join(lines)


def _findings(
    found: Outcome, expected: Outcome, gradients: dict[str, float], norm: float, loss: float
) -> Iterator[Finding]:
    for name, weights in expected.weights.items():
        if not np.array_equal(found.weights.get(name, np.nan), weights):
            yield Finding("initial weight", name, found.holders.get(name, ()), _error(found.weights.get(name), weights))
    for name, error in gradients.items():
        if not error <= GRADIENT_TOLERANCE:
            yield Finding("gradient of", name, found.holders.get(name, ()), error)
    if not norm <= NORM_TOLERANCE:
        yield Finding("gradient norm", "of step 1", (), norm)
    if not loss <= LOSS_TOLERANCE:
        yield Finding("loss", f"of {len(expected.losses)} steps", (), loss)
    if not found.ranks_agree:
        yield Finding("loss or norm", "as told by different ranks", (), float("nan"))


def _error(found: np.ndarray | None, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude; infinite for a missing or misshapen tensor."""
    if found is None or found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
