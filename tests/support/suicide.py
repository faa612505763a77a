"""A step whose process is killed in the middle of it, as the system does when memory runs out."""

from __future__ import annotations

import os
import signal
from typing import Any

from datatrove.pipeline.base import PipelineStep


class Suicide(PipelineStep):
    """Ends its process without a word."""

    type, name = "test", "suicide"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return data
