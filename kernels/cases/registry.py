"""Every case there is: those of each file of this folder that has `cases()`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from megacode.kernels import cases as folder
from megacode.kernels.cases.case import Case


def all_cases(op: str | None = None) -> tuple[Case, ...]:
    """Return the cases of every op, or of the one that is named: its `Case.op`, or its file in this folder.

    Raises ValueError where there is no such op, ImportError where Triton is missing.
    """
    found: list[tuple[str, Case]] = []
    for name in sorted(module.name for module in pkgutil.iter_modules(folder.__path__)):
        module = import_module(f"{folder.__name__}.{name}")
        if hasattr(module, "cases"):
            found += [(name, case) for case in module.cases()]
    chosen = tuple(case for name, case in found if op in (None, name, case.op))
    if not chosen:
        known = dict.fromkeys(case.op for _, case in found)
        raise ValueError(f"there is no op {op!r}; choose one of {', '.join(known)}")
    return chosen
