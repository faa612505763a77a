"""The operations that a configuration asks for, on a device."""

from __future__ import annotations

from pathlib import Path

from megacode.config.load import ConfigError
from megacode.config.problem import Problem
from megacode.config.schema import RunConfig
from megacode.kernels.dispatch import Implementations, KernelUnavailable, choose
from megacode.kernels.tuning import FIXED, TimedChoice


def choose_kernels(config: RunConfig, device_type: str) -> Implementations:
    """Which implementation of each operation the run uses. Raises ConfigError where one cannot run here."""
    asked = config.kernels
    requests = {"layer_norm": asked.layer_norm, "adamw": asked.optimizer}
    apex_ops = tuple(op for op, request in requests.items() if request == "apex")
    chooser = TimedChoice(Path(asked.tune_cache)) if asked.tune_cache else FIXED
    try:
        return choose(asked.implementation, device_type, apex_ops, chooser)
    except KernelUnavailable as error:
        value = repr(asked.implementation) if not apex_ops else "apex"
        raise ConfigError("kernels", [Problem("kernels", value, str(error))]) from error
