"""The tables of docs/preparing.md, rendered from the schema so that they cannot say something else."""

from __future__ import annotations

from megacode.config.prepare_schema import PrepareConfig
from megacode.config.reference import render_sections


def render_prepare_reference() -> str:
    """The tables of all sections, Markdown."""
    return "\n".join(render_sections(PrepareConfig)).rstrip("\n") + "\n"


if __name__ == "__main__":
    from megacode.console import result

    result(render_prepare_reference().rstrip("\n"))
