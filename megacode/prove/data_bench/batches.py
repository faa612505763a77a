"""How fast one core makes samples, and how that compares with what training on this machine's cores takes in."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from megacode.config.schema import RunConfig
from megacode.data.infill import FimPolicy
from megacode.train.feed import fim_policy, open_stream, open_tokenizer

SECONDS = 3.0


def batch_rates(config: RunConfig) -> dict[str, float]:
    """Return tokens per second of one core (CPU time): without infilling, with the run's, with every piece in it.

    Samples come from all over the run, so that next to nothing is computed twice.
    """
    tokenizer, own = open_tokenizer(config), fim_policy(config.data)
    policies = {"without fim": None, "with the run's fim": own, "every piece": FimPolicy(rate=1.0, repository_rate=1.0)}
    rates = {}
    for name, policy in policies.items():
        stream = open_stream(config.data, tokenizer, policy)
        samples = _per_second(lambda number, stream=stream: stream.sample(number * 7919))
        rates[name] = samples * config.data.sequence
    return rates


def _per_second(act: Callable[[int], object]) -> float:
    """Return how often a CPU second holds `act`, called with 0, 1, …"""
    start = time.process_time()
    for number in count(1):
        act(number)
        if (spent := time.process_time() - start) > SECONDS:
            return number / spent
    raise AssertionError("count has no end")
