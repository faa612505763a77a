"""Is an op on Triton its definition, does it write all of its outputs, and does it repeat bit for bit?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megacode.kernels.cases.case import Case
from megacode.kernels.cases.run import gradients_of, outputs_of

SEED = 1234
Results = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Accuracy:
    """How far an op on Triton is from its definition.

    outputs, gradients: largest error of each, as a share of its largest expected element; infinite where not finite.
    against:            "reference", or the baseline that stood in where the definition needs more memory than there is.
    repeats:            whether a second run gives the same bits.
    """

    outputs: tuple[float, ...]
    gradients: tuple[float, ...]
    tolerance: float
    against: str
    repeats: bool

    @property
    def worst(self) -> float:
        """The largest error."""
        return max((*self.outputs, *self.gradients))

    @property
    def sound(self) -> bool:
        """Whether it holds what it must."""
        return self.worst <= self.tolerance and self.repeats


def accuracy_of(case: Case, device: torch.device) -> Accuracy:
    """Run a case twice on Triton, in poisoned memory, and once by its definition, on the same random inputs."""
    with poisoned_memory():
        actual = _run(case, case.triton, device)
    again = _run(case, case.triton, device)
    repeats = all(torch.equal(one, other) for one, other in zip(_flat(actual), _flat(again), strict=True))
    del again
    against, expected = _expected(case, device, actual[0])
    return Accuracy(
        outputs=_errors(actual[0], expected[0]),
        gradients=_errors(actual[1], expected[1]),
        tolerance=case.tolerance,
        against=against,
        repeats=repeats,
    )


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """While the block runs, new memory is full of NaN or of the largest integers: what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills, see torch.utils.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def received_gradients(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same random gradients each time, in the dtypes of the outputs."""
    torch.manual_seed(SEED + 1)
    return [torch.randn(output.shape, dtype=output.dtype, device=output.device) for output in outputs]


def _run(
    case: Case, function: Callable[..., Any], device: torch.device, like: Sequence[Tensor] | None = None
) -> Results:
    """Outputs and gradients of one implementation; its inputs are made anew, because an op may write over them.

    `like`: outputs in whose dtypes the gradients are received; a definition may give wider ones.
    """
    torch.manual_seed(SEED)
    inputs = case.make_inputs(device)
    outputs = outputs_of(function, inputs)
    if not case.has_backward:
        return tuple(output.detach() for output in outputs), ()
    gradients = gradients_of(outputs, inputs, received_gradients(outputs if like is None else like))
    return tuple(output.detach() for output in outputs), gradients


def _expected(case: Case, device: torch.device, like: Sequence[Tensor]) -> tuple[str, Results]:
    for name, function in {"reference": case.reference, **case.baselines}.items():
        try:
            return name, _run(case, function, device, like)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise torch.OutOfMemoryError(f"neither the definition of {case.op} nor a baseline fits in the memory there is")


def _errors(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(_error(one, other) for one, other in zip(actual, expected, strict=True))


def _error(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    # fp64 would double what the largest tensors take, and tell nothing more of 16-bit ones.
    wide = torch.float64 if actual.numel() < 1 << 20 else torch.float32
    expected = expected.to(wide)
    error = float((actual.to(wide) - expected).abs_().max() / expected.abs().max())
    return error if math.isfinite(error) else math.inf


def _flat(results: Results) -> tuple[Tensor, ...]:
    return (*results[0], *results[1])
