"""Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): fp16 gradients are kept above the smallest fp16 number.

The loss is multiplied by a scale before backward. A gradient that is not finite skips the update and halves the scale;
after enough steps without one the scale doubles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megacode.config.schema import LossScaleConfig


@dataclass(frozen=True)
class Scaling:
    """What the next step's loss is multiplied by, good steps since that changed, and steps skipped in the whole run."""

    scale: float = 1.0
    good_steps: int = 0
    skipped_steps: int = 0

    def after(self, is_finite: bool, config: LossScaleConfig | None) -> Scaling:
        """What follows a step whose gradient was finite or not; None: the scale never changes."""
        skipped = self.skipped_steps + (not is_finite)
        if config is None:
            return replace(self, skipped_steps=skipped)
        if not is_finite:
            return Scaling(max(config.minimum, self.scale / 2.0), 0, skipped)
        if self.good_steps + 1 < config.growth_steps:
            return Scaling(self.scale, self.good_steps + 1, skipped)
        return Scaling(self.scale * 2.0, 0, skipped)
