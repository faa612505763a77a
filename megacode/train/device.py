"""The device that a rank computes on."""

from __future__ import annotations

import torch

from megacode.config.load import ConfigError
from megacode.config.problem import Problem
from megacode.config.schema import LaunchConfig
from megacode.train.place import Place


def claim_device(launch: LaunchConfig, place: Place) -> torch.device:
    """Make this process's device the current one, with its share of CPU threads, and return it.

    Raises ConfigError where there is no such device.
    """
    torch.set_num_threads(launch.threads)
    if launch.device == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if place.local_rank >= found:
        rule = f"rank {place.rank} needs GPU {place.local_rank} of its machine, which has {found}"
        hint = 'start fewer ranks a machine, or set launch.device = "cpu"'
        raise ConfigError("launch", [Problem("launch.device", "'cuda'", rule, hint)])
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device
