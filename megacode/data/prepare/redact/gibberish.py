"""Does a string look random? The letter pairs of English prose say (the table that comes with detect-secrets).

A pair of letters costs -ln P(second | first); a change between letter and digit costs as much as a rare pair. The mean
over a string is about 2.5 for words, about 3.3 for identifiers, over 4 for random letters and digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import pairwise
from types import MappingProxyType

LIMIT = 3.7
CHANGE_COST = 5.0
FEWEST_PAIRS = 3
FEWEST_CHARACTERS = 5
LONGEST_SCORED = 512


@cache
def _pair_costs() -> Mapping[str, float]:
    """Return the cost in nats of each pair of two lower-case letters."""
    counts = json.loads(files("detect_secrets.filters.gibberish").joinpath("rfc.model").read_text())["counts"]
    costs = {}
    for first, row in counts.items():
        total = sum(row.values())
        costs.update({first + second: -math.log(max(count, 1) / total) for second, count in row.items()})
    return MappingProxyType(costs)


def randomness(text: str) -> float:
    """Return the mean cost of the pairs in `text`, in nats; 0.0 when there are too few to tell."""
    costs = _pair_costs()
    lowered = text[:LONGEST_SCORED].lower()
    total, pairs = 0.0, 0
    for first, second in pairwise(lowered):
        cost = costs.get(first + second)
        if cost is None and first.isalnum() and second.isalnum() and first.isdigit() != second.isdigit():
            cost = CHANGE_COST
        if cost is not None:
            total += cost
            pairs += 1
    return total / pairs if pairs >= FEWEST_PAIRS else 0.0


def is_gibberish(text: str) -> bool:
    """Return whether `text` looks like random letters and digits: no words, no counting up, no few repeated ones."""
    if len(set(text)) < max(FEWEST_CHARACTERS, min(len(text), 32) // 4) or _counts_up(text):
        return False
    return randomness(text) >= LIMIT


def _counts_up(text: str) -> bool:
    """Return whether over half of the characters follow the one before: an alphabet, 123456."""
    codes = text[:LONGEST_SCORED].lower().encode("utf-16-le", "surrogatepass")[::2]
    steps = sum(second - first in (1, 0) for first, second in pairwise(codes))
    return steps * 2 > len(codes)
