"""A stream of samples that ends every worker process that reads it."""

from __future__ import annotations

import os
from typing import Any


class Deadly:
    """Kills the process that asks for a sample."""

    def sample(self, index: int) -> Any:
        """Never returns."""
        os.kill(os.getpid(), 9)
