"""Reads inputs that may be damaged, in a process with little memory, and tells what became of each.

    python damaged.py CASES.json RESULTS.json

CASES is a list of [source, on_damage, kind, limits]; RESULTS has for each ["error", message] or ["read", kept, dropped
by reason] and its seconds, and at the end the most memory that the process ever held, in bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peak_memory import peak_bytes

from megacode.data.errors import DataError
from megacode.data.prepare.inputs.sources import find_inputs
from megacode.data.prepare.options import options_from
from megacode.data.prepare.plan import make_plan
from megacode.data.prepare.stages.collect import collect

ADDRESS_BYTES = 3 << 30


def read(
    source: str,
    on_damage: str,
    kind: str,
    limits: dict[str, Any],
    out: Path,
    between: Callable[[], None] = lambda: None,
) -> list[Any]:
    """List and collect one source; `between` is called after the listing."""
    table = {
        "sources": [{"path": source, "kind": kind}],
        "out": str(out),
        "limits": {"on_damage": on_damage, **limits},
        "format": {"family": "starcoder"},
        "deduplicate": {"near": False, "permutations": 16},
        "executor": {"tasks": 1},
    }
    options = options_from(table)
    try:
        listing = find_inputs(options)
        plan = make_plan(options, listing, {"case": str(out)}, 1)
        between()
        collect(plan, 0)
    except DataError as error:
        return ["error", str(error)]
    tally = json.loads(plan.stats("collect", 0).read_text())["tally"]
    dropped = dict(listing.skipped.to_table()["reasons"].get("collect", {}))
    dropped |= {reason: found for step in tally["reasons"].values() for reason, found in step.items()}
    return ["read", tally["kept"].get("collect", [0])[0], {reason: found[0] for reason, found in dropped.items()}]


def main(cases: str, results: str) -> None:
    """Read every case, the next whatever became of the last."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    told = []
    for number, (source, *how) in enumerate(json.loads(Path(cases).read_text())):
        began = time.monotonic()
        outcome = read(source, *how, Path(results).parent / f"out-{number}")
        told.append([outcome, time.monotonic() - began])
    Path(results).write_text(json.dumps({"outcomes": told, "most_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
