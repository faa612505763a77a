"""Where every word to the user goes: messages to stderr, results to stdout, progress only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """Write one message line to stderr."""
    print(message, file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Write what the command was asked for to stdout."""
    print(text, flush=True)


def result_json(value: object) -> None:
    """Write `value` to stdout as indented JSON, for `--json`."""
    result(json.dumps(value, indent=2, sort_keys=False, default=str))


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr while the block runs; yields `advance(count)`.

    Quiet when stderr is not a terminal. `total` is in the caller's units; None shows a pulse.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
