"""docs/configuration.md, rendered from the schema so that it cannot say something else."""

from __future__ import annotations

from collections.abc import Iterator

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
    return "\n".join([_HEAD, *_sections(RunConfig, "")]).rstrip("\n") + "\n"


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    leaves: list[tuple[str, FieldInfo]] = []
    nested: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        (nested if is_section else leaves).append((name, field))
    if leaves:
        first_line = (model.__doc__ or "").strip().splitlines()[0]
        yield f"## [{prefix.rstrip('.')}]\n\n{first_line}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        yield from (_row(name, field) for name, field in leaves)
        yield ""
    for name, field in nested:
        assert isinstance(field.annotation, type)
        yield from _sections(field.annotation, f"{prefix}{name}.")


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else f"`{field.default!r}`"
    return f"| `{name}` | {_type_name(field)} | {default} | {field.description or ''} |"


def _type_name(field: FieldInfo) -> str:
    text = str(field.annotation)
    if text.startswith("typing.Literal"):
        return text.removeprefix("typing.Literal[").removesuffix("]").replace("'", "`").replace(", ", " or ")
    return getattr(field.annotation, "__name__", text).replace("|", "or")


if __name__ == "__main__":
    from megacode.console import result

    result(render_reference().rstrip("\n"))
