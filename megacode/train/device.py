"""The device that a rank computes on."""

from __future__ import annotations

import ctypes

import torch

from megacode.config.load import ConfigError
from megacode.config.problem import Problem
from megacode.config.schema import LaunchConfig
from megacode.train.place import Place

# glibc's mallopt(3): parameters of malloc.h, and the most that each may be.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_INT, _LARGEST_MMAP_THRESHOLD = 2**31 - 1, 1 << 25


def claim_device(launch: LaunchConfig, place: Place) -> torch.device:
    """Make this process's device the current one, with its share of CPU threads, and return it.

    Raises ConfigError where there is no such device.
    """
    torch.set_num_threads(launch.threads)
    if launch.device == "cpu":
        _keep_freed_memory()
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if place.local_rank >= found:
        rule = f"rank {place.rank} needs GPU {place.local_rank} of its machine, which has {found}"
        hint = 'start fewer ranks a machine, or set launch.device = "cpu"'
        raise ConfigError("launch", [Problem("launch.device", "'cuda'", rule, hint)])
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _keep_freed_memory() -> None:
    """Have malloc keep what tensors free, up to 32 MiB each, for the tensors of the next micro-batch.

    By default it gives large pieces back to the kernel, which clears every page of them again at the next use: 10 % of
    a step of examples/bench_cpu.toml. Does nothing where the C library is another than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _LARGEST_INT)
