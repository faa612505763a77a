"""The device that a rank computes on."""

from __future__ import annotations

import torch

from megacode.config.schema import LaunchConfig
from megacode.train.place import Place


def claim_device(launch: LaunchConfig, place: Place) -> torch.device:
    """Make this process's device the current one, with its share of CPU threads, and return it."""
    torch.set_num_threads(launch.threads)
    if launch.device == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device
