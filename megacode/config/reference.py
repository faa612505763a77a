"""docs/configuration.md, rendered from the schema so that it cannot say something else."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megacode.config.schema import RunConfig

_HEAD = """# Configuration

A run is one TOML file; every key below can also be given on the command line as `section.key=value`.
`megacode check RUN.toml` finds every mistake at once, without torch and without a GPU.
This page is written by `python -m megacode.config.reference`.
"""


def render_reference() -> str:
    """The whole page, Markdown."""
    return "\n".join([_HEAD, *render_sections(RunConfig)]).rstrip("\n") + "\n"


def render_sections(model: type[BaseModel], prefix: str = "", is_list: bool = False) -> Iterator[str]:
    """Yield a table for each section of a configuration, Markdown."""
    leaves: list[tuple[str, FieldInfo]] = []
    nested: list[tuple[str, type[BaseModel], bool]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        entry = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if isinstance(entry, type) and issubclass(entry, BaseModel):
            nested.append((name, entry, entry is not kind))
        else:
            leaves.append((name, field))
    if leaves:
        first_line = (model.__doc__ or "").strip().splitlines()[0]
        head = f"[[{prefix.rstrip('.')}]]" if is_list else f"[{prefix.rstrip('.')}]"
        yield f"## {head}\n\n{first_line}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        yield from (_row(name, field) for name, field in leaves)
        yield ""
    for name, entry, repeats in nested:
        yield from render_sections(entry, f"{prefix}{name}.", repeats)


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else f"`{field.default!r}`"
    return f"| `{name}` | {_type_name(field)} | {default} | {field.description or ''} |"


def _type_name(field: FieldInfo) -> str:
    text = str(field.annotation)
    if text.startswith("typing.Literal"):
        return text.removeprefix("typing.Literal[").removesuffix("]").replace("'", "`").replace(", ", " or ")
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    if len(kinds) == 1 and NoneType in get_args(field.annotation):
        inner = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
        return f"{inner.__name__} or none"
    return getattr(field.annotation, "__name__", text)


if __name__ == "__main__":
    from megacode.console import result

    result(render_reference().rstrip("\n"))
