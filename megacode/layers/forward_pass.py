"""What a forward pass is told besides the activations: the same on every rank of a replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megacode.layers.dropout import Draw


@dataclass(frozen=True)
class ForwardPass:
    """One micro-batch's pass through the model.

    `draw`: what dropout is a function of; None: evaluation, without dropout. `documents`: those that attention must not
    cross, as the kernels' `prepare_documents` makes them; None: it crosses them.
    """

    draw: Draw | None = None
    documents: Any = None
