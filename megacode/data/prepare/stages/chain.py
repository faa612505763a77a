"""Which stages a preparation has, in order: each begins when all tasks of the one before are complete."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from megacode.data.prepare.plan import Plan
from megacode.data.prepare.stages.collect import collect
from megacode.data.prepare.stages.finish import finish, repositories
from megacode.data.prepare.stages.near import clusters, pairs
from megacode.data.prepare.stages.publish import publish
from megacode.data.prepare.stages.unique import unique

STAGES = MappingProxyType(
    {work.__name__: work for work in (collect, unique, pairs, clusters, finish, repositories, publish)}
)


class Stage(NamedTuple):
    """A stage by its name in STAGES: what a task does, how many there are, and the name of its folder of logs."""

    name: str
    work: Callable[[Plan, int], None]
    tasks: int
    log: str


def chain(plan: Plan) -> tuple[Stage, ...]:
    """Return the stages of a plan, in order."""
    tasks = {"collect": plan.collectors, "unique": plan.buckets}
    if plan.options.deduplicate.near:
        tasks |= {"pairs": plan.comparers, "clusters": 1}
    tasks["finish"] = plan.buckets
    if plan.options.format.repositories:
        tasks["repositories"] = plan.buckets
    tasks["publish"] = 1
    # Completion is by rank, so another number of collecting tasks needs another folder.
    logs = {"collect": f"collect-{plan.collectors}"}
    return tuple(Stage(name, STAGES[name], count, logs.get(name, name)) for name, count in tasks.items())
