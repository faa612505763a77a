"""What a case is: one op at one shape, with its definition, its rivals, and what its kernels must move and compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """Of one launch of a kernel, counted by hand from its loads and stores, before any cache.

    moved_bytes: what its programs read and write.
    least_bytes: each input element read once, each output element written once.
    flops:       multiplications and additions of its matrix products, or of its arithmetic where it has none.
    """

    moved_bytes: int
    least_bytes: int
    flops: int


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    op, shape:    names for people: "layer_norm", "StarCoder, rows 2,048 x h 6,144, bf16".
    make_inputs:  the arguments, on a device: random values on "cuda" and "cpu", no memory on "meta". Floating-point
                  tensors that want a gradient have `requires_grad`.
    triton:       the op on Triton, taking those arguments and giving a tensor or a tuple of them; an op that writes
                  over its arguments gives those back.
    reference:    its definition, of the same form, as precise as fp32.
    baselines:    other implementations of the same form, by name ("torch", "sdpa", "apex").
    costs:        by the name of each kernel that forward and backward launch.
    tolerance:    largest error, as a share of the largest expected element, that the dtype explains.
    """

    op: str
    shape: str
    make_inputs: Callable[[torch.device], tuple[Any, ...]]
    triton: Callable[..., Any]
    reference: Callable[..., Any]
    costs: Mapping[str, Cost]
    tolerance: float
    has_backward: bool = True
    baselines: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
