"""What a git checkout says of the files in it: the repository's name, its licences, the date of its last commit.

git itself is asked for one thing only, the commit at HEAD, and in a way that runs nothing the checkout brings along:
no hook, no pager, no transport, no program that its configuration names. The rest is read from files.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from megacode.data.errors import DataError
from megacode.data.opening import open_regular, shown
from megacode.data.prepare.inputs.licence_texts import MOST_BYTES, is_licence_name, licence_of

GIT_SECONDS = 30
_ORIGIN = 'remote "origin"'
_URL = re.compile(r"(?:^[a-z+]+://[^/]+/|^[^/:]+:)?(?P<path>[^:]*?)(?:\.git)?/*$")
_COMMITTER = re.compile(rb"^committer .*> (\d{1,12}) [+-]\d{4}$", re.MULTILINE)
_SAFE = ("safe.directory=*", "protocol.allow=never", "core.fsmonitor=false", "core.hooksPath=/dev/null")
_QUIET = (("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_NO_LAZY_FETCH", "1"), ("LC_ALL", "C"))


@dataclass(frozen=True)
class Checkout:
    """A repository on disk: its name (owner/name), SPDX names of its licences, ISO date of its last commit in UTC."""

    repository: str
    licences: tuple[str, ...]
    date: str


def is_checkout(folder: Path) -> bool:
    """Return whether `folder` is the top of a git checkout, a submodule or a worktree."""
    git = _git_folder(folder)
    return git is not None and (git / "HEAD").is_file()


def read_checkout(folder: Path) -> Checkout:
    """Return what the checkout at `folder` says; the date is empty where neither git nor the file system knows."""
    git = _git_folder(folder)
    assert git is not None
    name = _origin(_common_folder(git)) or shown(folder.resolve().name)
    return Checkout(name, _licences(folder), _committed(folder) or _changed(git / "HEAD"))


def repository_of(url: str) -> str:
    """Return owner/name of a remote's address, such as git@host:owner/name.git or https://host/owner/name."""
    found = _URL.match(url.strip())
    parts = [part for part in (found["path"] if found else "").split("/") if part not in ("", ".", "..", "~")]
    return "/".join(parts[-2:])


def _git_folder(folder: Path) -> Path | None:
    """Return where the checkout keeps git's files: .git, or what the file .git points to."""
    git = folder / ".git"
    try:
        if git.is_dir():
            return git
        if git.is_file() and not git.is_symlink():
            with open_regular(git) as file:
                word, _, place = file.read(4096).decode("utf-8", "surrogateescape").partition(":")
            return folder / place.strip() if word == "gitdir" else None
    except (OSError, ValueError, DataError):
        return None
    return None


def _common_folder(git: Path) -> Path:
    """Return the folder that holds the configuration; a worktree shares that of its repository."""
    text = _text(git / "commondir").strip()
    return git / text if text else git


def _origin(git: Path) -> str:
    """Return the name in the address of the remote `origin`, or the empty string."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        parser.read_string("\n".join(line.strip() for line in _text(git / "config").splitlines()))
        return repository_of(parser.get(_ORIGIN, "url", fallback="") or "")
    except configparser.Error:
        return ""


def _licences(folder: Path) -> tuple[str, ...]:
    """Return the SPDX names of the licence files at the top of the checkout."""
    try:
        names = sorted(path.name for path in folder.iterdir() if is_licence_name(path.name))
    except OSError:
        return ()
    found = {licence_of(_text(folder / name)) for name in names}
    return tuple(sorted(licence for licence in found if licence))


def _committed(folder: Path) -> str:
    """Return the date of the commit at HEAD as git tells it, or the empty string."""
    program = shutil.which("git")
    if program is None:
        return ""
    settings = [word for setting in _SAFE for word in ("-c", setting)]
    command = [program, *settings, "-C", os.fspath(folder), "cat-file", "commit", "HEAD"]
    try:
        ended = subprocess.run(
            command, env=dict(_QUIET), stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _COMMITTER.search(ended.stdout.partition(b"\n\n")[0])
    return datetime.fromtimestamp(int(found[1]), UTC).isoformat() if ended.returncode == 0 and found else ""


def _changed(path: Path) -> str:
    """Return when `path` was last written, or the empty string."""
    try:
        return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).isoformat()
    except OSError:
        return ""


def _text(path: Path) -> str:
    """Return the beginning of a small text file, or the empty string where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except (OSError, DataError):
        return ""
