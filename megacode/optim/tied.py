"""The embedding matrix that the first and the last pipeline stage share.

The first stage owns it: the last stage's gradient is added to the owner's, the owner alone updates its master weights,
and the new weights are copied back. So the two are equal bit for bit by construction, and its norm is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megacode.parallel.collectives import Arriving, all_sum_, start_broadcast_
from megacode.parallel.groups import Group

OWNER = 0


@dataclass(frozen=True)
class TiedWeight:
    """One end's view of a shared weight: its gradient (fp32), its value, and the group of the two ends."""

    gradient: Tensor
    weight: Tensor
    group: Group

    def sum_gradients(self) -> None:
        """Add up both ends' gradients."""
        all_sum_(self.gradient, self.group)

    def start_copy_from_owner(self) -> Arriving:
        """Begin to take over the owner's value, which until then stays as it is."""
        return start_broadcast_(self.weight, self.group, OWNER)
