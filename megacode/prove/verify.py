"""Every layout against one process, on toy widths: the user's own configuration (`shrink`), or our own (`mixes`).

What differs is told by name: the parameter, the ranks that answer for it, and by how much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from megacode.config.schema import RunConfig
from megacode.prove.layouts import Layout
from megacode.prove.mixes import mixes
from megacode.prove.outcome import Outcome, compute
from megacode.prove.ranks import RankFailure
from megacode.prove.shrink import MOST_REPLICAS, alone, shrink

GRADIENT_TOLERANCE = 1e-5
NORM_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-5


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
    """What one mix was found to compute; sound without findings and failure.

    Errors are relative, the worst ones beside one process: of any element of any gradient and of the gradients' norm in
    step 1, and of the norms and losses of all steps. `failure`: what a rank died of. `seconds` of the mix, without its
    reference.
    """

    mix: str
    findings: tuple[Finding, ...] = ()
    failure: str = ""
    gradient_error: float = math.nan
    first_norm_error: float = math.nan
    norm_error: float = math.nan
    loss_error: float = math.nan
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether it computes what one process does."""
        return not self.findings and not self.failure

    def __str__(self) -> str:
        if self.failure:
            return f"{self.mix}: FAILED ({self.seconds:.1f} s)\n  " + self.failure.strip().replace("\n", "\n  ")
        told = (
            f"gradient {self.gradient_error:.1e}, norm {self.first_norm_error:.1e} (all steps {self.norm_error:.1e}), "
            f"loss {self.loss_error:.1e}, {self.seconds:.1f} s"
        )
        lines = [f"{self.mix}: {'the same model' if self.is_sound else 'DIFFERS'} ({told})"]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])


class References:
    """What one process computes, computed once for each model and batch."""

    def __init__(self) -> None:
        self._known: dict[str, Outcome] = {}

    def of(self, toy: RunConfig) -> Outcome:
        """For the run `toy`, in one process."""
        config = alone(toy)
        key = config.model_dump_json()
        if key not in self._known:
            self._known[key] = compute(config)
        return self._known[key]


def own_layout(config: RunConfig) -> Layout:
    """The configuration's own, with at most two replicas: more of them are more of the same."""
    return replace(Layout.of(config.parallel), dp=min(config.parallel.dp, MOST_REPLICAS))


def toys(config: RunConfig | None, layouts: str = "") -> dict[str, RunConfig]:
    """What to verify, by name: the toy twin of `config` in each of `layouts` ("": its own); all mixes for None.

    Raises WrongCall for a layout that cannot be understood, ConfigError if the twin cannot be cut that way.
    """
    if config is None:
        return {str(mix): mix.config() for mix in mixes()}
    wanted = [Layout.parse(text) for text in layouts.split(",")] if layouts else [own_layout(config)]
    return {str(layout): shrink(config, layout) for layout in wanted}


def verify(name: str, toy: RunConfig, references: References, worker: object = None) -> Verdict:
    """Train `toy` in its layout and in one process, and compare; see `outcome.compute` for `worker`."""
    expected = references.of(toy)
    start = time.perf_counter()
    try:
        found = compute(toy, worker)
    except RankFailure as failure:
        return Verdict(name, failure=str(failure), seconds=time.perf_counter() - start)
    return replace(compare(name, found, expected), seconds=time.perf_counter() - start)


def compare(name: str, found: Outcome, expected: Outcome) -> Verdict:
    """Weigh what a mix computed against one process."""
    gradients = {name: _error(found.gradients.get(name), value) for name, value in expected.gradients.items()}
    first_norm, norm, loss = (
        _error_of_any(ours, theirs)
        for ours, theirs in (
            (found.norms[:1], expected.norms[:1]),
            (found.norms, expected.norms),
            (found.losses, expected.losses),
        )
    )
    findings = tuple(_findings(found, expected, gradients, first_norm, loss))
    return Verdict(name, findings, "", max(gradients.values()), first_norm, norm, loss)


def render_summary(verdicts: Sequence[Verdict]) -> str:
    """One line over all of them."""
    compared = [verdict for verdict in verdicts if not verdict.failure]
    sound = sum(verdict.is_sound for verdict in verdicts)
    worst = ", ".join(
        f"{what} {max(errors, default=math.nan):.1e}"
        for what, errors in (
            ("gradient", [verdict.gradient_error for verdict in compared]),
            ("norm of step 1", [verdict.first_norm_error for verdict in compared]),
            ("norm of any step", [verdict.norm_error for verdict in compared]),
            ("loss of any step", [verdict.loss_error for verdict in compared]),
        )
    )
    seconds = sum(verdict.seconds for verdict in verdicts)
    return f"{sound} of {len(verdicts)} compute the same model as one process (worst: {worst}), {seconds:.0f} s"


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
        return math.inf
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _error_of_any(found: Sequence[float], expected: Sequence[float]) -> float:
    """The worst relative error of the numbers, each beside its own."""
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, expected, strict=True))
