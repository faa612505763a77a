"""From what a configuration calls a source to the prefixes of its shards."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".bin", ".idx", ".json")


def shard_prefixes(pattern: str) -> list[Path]:
    """Return the prefixes of the shards that `pattern` names, sorted; empty where there are none.

    A pattern without `*`, `?` or `[` is itself a prefix.
    """
    path = Path(pattern)
    if not any(sign in pattern for sign in "*?["):
        return [path] if missing_parts(path) != list(ENDINGS) else []
    root = Path(path.anchor or ".")
    relative = path.relative_to(path.anchor) if path.anchor else path
    return sorted(file.with_suffix("") for file in root.glob(f"{relative}.idx"))


def missing_parts(prefix: Path) -> list[str]:
    """Return the endings of the shard's files that are not there."""
    return [ending for ending in ENDINGS if not prefix.with_name(prefix.name + ending).is_file()]
