"""What the papers say a schedule waits for, with equal stages and messages that take no time.

The bubble here is the time in which a stage waits between the first pass of the first stage and the last pass of any:
every step ends with a sum over all ranks. (Qi et al. do without that sum; then ZB-V has none.)
"""

from __future__ import annotations

from megacode.layout.simulate import EqualStages
from megacode.layout.stages import Placement


def bubble_formula(name: str, placement: Placement, num_micro_batches: int, passes: EqualStages) -> float:
    """The share of the step in which a stage waits; with F, B, W and T = F + B + W per micro-batch and stage:

    gpipe, 1f1b:  (p - 1) T             Narayanan et al. 2021, section 2.2 (there as a share of the ideal m T)
    interleaved:  (p - 1) T / v         the same, for m a multiple of p; here for all m >= p
    zb-h1:        (p - 1) (F + B - W)   Qi et al. 2023, arXiv 2401.10241, section 2; for m >= p, W <= B
    zb-v:         (p - 1) F / 2         there 0, for it doesn't count this wait for the first micro-batch; for m >= 2p
                                        and F = B = W

    Outside these conditions `simulate` knows more. Raises ValueError for an unknown name.
    """
    waits = {
        "gpipe": passes.total,
        "1f1b": passes.total,
        "interleaved": passes.total / placement.num_chunks,
        "zb-h1": passes.forward + passes.backward_input - passes.backward_weight,
        "zb-v": passes.forward / 2,
    }
    if name not in waits:
        raise ValueError(f"no formula for schedule {name!r}; known: {', '.join(waits)}")
    idle = (placement.num_stages - 1) * waits[name]
    return idle / (idle + num_micro_batches * passes.total)
