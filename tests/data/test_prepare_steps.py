"""The parts of preparing by themselves: tallies, buckets, the split, preferences, licence texts, git checkouts."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard
from corpus import code

from megacode.data.compressed import Bounds, bounded_lines
from megacode.data.documents import Document, read_documents
from megacode.data.errors import DataError
from megacode.data.prepare.buckets import SPILL_BYTES, BucketWriter, bucket_lines, bucket_of
from megacode.data.prepare.inputs.checkouts import is_checkout, read_checkout, repository_of
from megacode.data.prepare.inputs.licence_texts import is_licence_name, licence_of
from megacode.data.prepare.split import SIDES, Split, key_of, to_move
from megacode.data.prepare.stages.unique import _preference
from megacode.data.prepare.tally import Tally
from megacode.data.prepare.writing import DocumentWriter


def doc(path: str, content: str, **facts: object) -> Document:
    return Document(path, path, "python", content, **facts)


def test_tallies_add_up_in_any_order() -> None:
    tallies = []
    for number in range(20):
        tally = Tally()
        tally.keep("filters", 10)
        tally.drop("filters", "empty" if number % 2 else "long", f"{number:02}.py")
        tally.count("redaction", "EMAIL replaced", number)
        tally.keep("redaction", 1)
        tallies.append(json.loads(json.dumps(tally.to_table())))
    merged = []
    for order in range(5):
        random.Random(order).shuffle(tallies)
        whole = Tally()
        for tally in tallies:
            whole.merge(tally)
        merged.append(whole.reports())
    assert all(one == merged[0] for one in merged)
    filters, redaction = merged[0]
    assert (filters.documents_in, filters.kept, filters.dropped, filters.bytes_kept) == (40, 20, 20, 200)
    assert filters.reasons[0].samples == ("01.py", "03.py", "05.py") and redaction.counts == {"EMAIL replaced": 190}


def test_buckets_cut_the_range_of_hashes_in_order() -> None:
    keys = sorted(random.Random(1).randbytes(32) for _ in range(2000))
    for buckets in (1, 2, 7, 1000):
        found = [bucket_of(key, buckets) for key in keys]
        assert found == sorted(found) and set(found) <= set(range(buckets))
    assert bucket_of(b"\xff" * 32, 7) == 6 and bucket_of(b"\0" * 32, 7) == 0


def test_lines_come_back_from_their_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they were written in several portions, by several tasks."""
    monkeypatch.setattr("megacode.data.prepare.buckets.SPILL_BYTES", 1000)
    draw, expected = random.Random(3), {bucket: [] for bucket in range(9)}
    for task in range(3):
        with BucketWriter(tmp_path / f"{task}.zst") as writer:
            for _ in range(300):
                bucket, line = draw.randrange(8), draw.randbytes(20).hex().encode()
                writer.add(bucket, line)
                expected[bucket].append(line)
    files = [tmp_path / f"{task}.zst" for task in range(3)]
    assert all(list(bucket_lines(files, bucket)) == expected[bucket] for bucket in expected)
    assert SPILL_BYTES <= 1 << 25  # what a task holds
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(data)
    with pytest.raises(DataError, match="damaged file of a preparation"):
        [list(bucket_lines(files, bucket)) for bucket in expected]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), BucketWriter(tmp_path / "a.zst") as buckets:
        buckets.add(0, b"x")
        raise KeyError
    with pytest.raises(KeyError), DocumentWriter(tmp_path / "b.jsonl.zst") as documents:
        documents.add(doc("a", "b"))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_is_described(tmp_path: Path) -> None:
    documents = [doc("a", "café\n"), doc("b", "x")]
    with DocumentWriter(tmp_path / "b.jsonl.zst") as writer:
        for one in documents:
            writer.add(one)
    shard = writer.shard()
    assert (shard.documents, shard.content_bytes) == (2, 7)
    assert shard.file_bytes == (tmp_path / "b.jsonl.zst").stat().st_size
    assert list(read_documents(tmp_path / "b.jsonl.zst")) == documents


def sides(documents: list[Document], share: float, moved: str = "") -> tuple[list[str], dict]:
    split = Split(share, moved)
    return [split.side(key_of(one)) for one in documents], split.to_table()


def test_split_is_by_content() -> None:
    documents = [doc(str(n), code(n, 8)) for n in range(2000)]
    first, _ = sides(documents, 0.03)
    assert 30 <= first.count("validation") <= 95
    assert sides([*documents, doc("x", "y")], 0.03)[0][:2000] == first
    assert sides([doc(f"other{one.path}", one.content) for one in documents], 0.03)[0] == first
    more, _ = sides(documents, 0.1)
    assert all(now == "validation" for now, before in zip(more, first, strict=True) if before == "validation")


@pytest.mark.parametrize("share", [0.0, 0.9999999])
def test_the_document_nearest_to_the_border_changes_sides(share: float) -> None:
    documents = [doc(str(n), code(n, 8)) for n in range(50)]
    found, border = sides(documents, share)
    assert len(set(found)) == 1
    halves = [sides(documents[:20], share)[1], sides(documents[20:], share)[1]]
    moved = to_move([border])
    assert moved == to_move(halves) == to_move(halves[::-1])
    after, same = sides(documents, share, moved)
    assert sorted(after.count(side) for side in SIDES) == [1, 49] and same == border
    places = [int.from_bytes(key_of(one)[8:16], "big") for one in documents]
    nearest = min(places) if share == 0.0 else max(places)
    assert key_of(documents[places.index(nearest)]).hex() == moved
    assert to_move([sides(documents, 0.5)[1]]) == "" and to_move([]) == ""


def test_of_equal_documents_the_most_starred_then_the_newest_stays() -> None:
    best = [
        doc("z", "c", stars=2),
        doc("y", "c", stars=1, date="2024-01-01T00:00:00"),
        doc("y", "c", stars=1, date="2024-01-01"),
        doc("x", "c", stars=1, date="2023-12-31"),
        doc("w", "c", stars=1),
        doc("a", "c"),
        doc("b", "c"),
    ]
    shuffled = random.Random(5).sample(best, len(best))
    assert sorted(shuffled, key=_preference) == best


_BSD = "Redistribution and use in source and binary forms, with or without change. Redistributions in binary form must"
LICENCE_TEXTS = {
    "MIT": "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining\na copy of it",
    "Apache-2.0": "                              Apache License\n                        Version 2.0, January 2004",
    "BSD-2-Clause": f"{_BSD} reproduce the above",
    "BSD-3-Clause": f"{_BSD} reproduce the above. Neither the name of the copyright holder",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is "
    "hereby granted, provided that the above copyright notice",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
    "MPL-2.0": "Mozilla Public License Version 2.0\n====",
    "GPL-2.0-only": "GNU GENERAL PUBLIC LICENSE\n  Version 2, June 1991",
    "GPL-3.0-only": "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 … the GNU Affero General Public License",
    "LGPL-2.1-only": "GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999",
    "LGPL-3.0-only": "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3 … version 3 of the GNU General Public License",
    "AGPL-3.0-only": "GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3, 19 November 2007",
}


@pytest.mark.parametrize("name", LICENCE_TEXTS)
def test_licences_are_known_by_their_sentences(name: str) -> None:
    assert licence_of(LICENCE_TEXTS[name]) == name


def test_other_texts_are_no_licence() -> None:
    assert licence_of("All rights reserved.") is None and licence_of("") is None
    assert licence_of(LICENCE_TEXTS["BSD-3-Clause"] + " advertising materials mentioning features") is None
    names = ["LICENSE", "License.txt", "LICENCE.md", "COPYING", "LICENSE-MIT", "license.py", "unlicensed.txt", "README"]
    assert [is_licence_name(name) for name in names] == [True] * 5 + [False] * 3


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/owner/name.git", "owner/name"),
        ("https://user:secret@host.org:8080/owner/name/", "owner/name"),
        ("git@github.com:owner/name.git", "owner/name"),
        ("ssh://git@host:22/group/sub/name.git", "sub/name"),
        ("/srv/git/name.git", "git/name"),
        ("../name", "name"),
        ("", ""),
    ],
)
def test_a_remote_names_the_repository(url: str, name: str) -> None:
    assert repository_of(url) == name


def git(folder: Path, *words: str) -> None:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    command = ["git", *settings, "-C", str(folder), *words]
    environment = {"GIT_COMMITTER_DATE": "2021-02-03T04:05:06+0200", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git to make a checkout")
    folder = tmp_path / "work" / "tool"
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_text(LICENCE_TEXTS["MIT"])
    (folder / "LICENSE-APACHE").write_text(LICENCE_TEXTS["Apache-2.0"])
    (folder / "a.py").write_text("a = 1\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "committer x <y> 1 +0000")
    return folder


def test_a_checkout_says_where_its_files_are_from(checkout: Path) -> None:
    found = read_checkout(checkout)
    assert is_checkout(checkout) and not is_checkout(checkout.parent)
    assert (found.repository, found.licences, found.date) == (
        "tool",
        ("Apache-2.0", "MIT"),
        "2021-02-03T02:05:06+00:00",
    )
    git(checkout, "remote", "add", "origin", "git@host:owner/tool.git")
    assert read_checkout(checkout).repository == "owner/tool"
    git(checkout, "worktree", "add", "../other")
    assert is_checkout(checkout.parent / "other")
    assert read_checkout(checkout.parent / "other").repository == "owner/tool"


def test_without_git_the_date_is_the_file_systems(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert read_checkout(checkout).date.endswith("+00:00") and read_checkout(checkout).date > "2021-02-03T02:05:06"


def test_a_checkouts_configuration_runs_nothing(checkout: Path, tmp_path: Path) -> None:
    """Hooks, pagers, signers and transports that a stranger's checkout brings along."""
    alarm = tmp_path / "alarm"
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {alarm}\n")
    program.chmod(0o755)
    keys = (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "gpg.program",
        "core.editor",
        "diff.external",
        "alias.cat-file",
    )
    for key in keys:
        git(checkout, "config", key, f"!{program}" if key.startswith("alias") else str(program))
    git(checkout, "config", "log.showSignature", "true")
    git(checkout, "config", "remote.origin.promisor", "true")
    git(checkout, "config", "remote.origin.url", "ssh://host.invalid/a.git")
    git(checkout, "config", "core.repositoryFormatVersion", "1")
    git(checkout, "config", "extensions.partialClone", "origin")
    alarm.unlink(missing_ok=True)
    assert read_checkout(checkout).date
    for pack in (checkout / ".git" / "objects").glob("??/*"):
        pack.unlink()  # git would fetch what is missing
    read_checkout(checkout)
    assert not alarm.exists()


@pytest.mark.parametrize("damage", ["[remote", "\xff", '[remote "origin"]\nurl', "x" * 10_000])
def test_a_damaged_checkout_still_has_a_name(damage: str, tmp_path: Path) -> None:
    (tmp_path / "tool" / ".git").mkdir(parents=True)
    (tmp_path / "tool" / ".git" / "HEAD").write_text(damage)
    (tmp_path / "tool" / ".git" / "config").write_text(damage, encoding="latin-1")
    assert is_checkout(tmp_path / "tool") and read_checkout(tmp_path / "tool").repository == "tool"


def test_lines_at_the_border_of_what_may_be_held(tmp_path: Path) -> None:
    """A line of exactly the bound is whole, one byte more is not there, wherever the pieces of a reading end."""
    lengths = [0, 1, 99, 100, 101, 5, 1 << 20, (1 << 20) - 1, 100, 0, 100, 3_000_000, 7]
    text = b"\n".join(b"x" * length for length in lengths)
    for name, data in (("a.jsonl", text), ("a.jsonl.zst", zstandard.compress(text))):
        (tmp_path / name).write_bytes(data)
        found = list(bounded_lines(tmp_path / name, Bounds(100, 10**9)))
        assert found == [b"x" * length if length <= 100 else None for length in lengths]
