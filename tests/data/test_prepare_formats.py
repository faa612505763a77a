"""Preparing with the other rooms' parts in place: kinds of sources, licences, redaction, decontamination, formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus import code, result_of, write_files

from megacode.data.documents import Document, read_documents
from megacode.data.formats.kinds import documents_of
from megacode.data.prepare import PrepareReport, options_from, plan, prepare

NOTEBOOK = '{"cells": [{"cell_type": "code", "source": "x = 1"}], "metadata": {"language_info": {"name": "python"}}}'
ROWS: dict[str, dict[str, Any]] = {
    "issue": {"events": [{"action": "opened", "author": "a", "text": "x " * 200}]},
    "commit": {"old_contents": "a\nb\nc", "new_contents": "d\ne\nf", "message": "Read it all in one pass"},
    "notebook": {"content": NOTEBOOK},
    "notebook-script": {"content": NOTEBOOK},
}


def prepared(out: Path, sources: list[dict[str, Any]], **tables: Any) -> tuple[PrepareReport, list[Document]]:
    """The report and all documents, in order."""
    report = prepare(options_from({"sources": sources, "out": str(out), **tables}))
    assert isinstance(report, PrepareReport)
    files = [path for side in ("train", "validation") for path in sorted((out / side).iterdir())]
    return report, [one for path in files for one in read_documents(path)]


@pytest.mark.parametrize("kind", ROWS)
def test_each_kind_of_source(kind: str, tmp_path: Path) -> None:
    """Rows of a kind become its documents, the unfit are counted, and redaction reaches into their parts."""
    mail = {"commit": "message", "issue": "title"}.get(kind, "content")
    second = {
        **ROWS[kind],
        mail: json.dumps(ROWS[kind].get(mail, "A bug"))[1:-1].replace("x", "y") + " tell me@corp.io now",
    }
    if kind.startswith("notebook"):
        second = {"content": NOTEBOOK.replace("x = 1", "y = 'me@corp.io'")}
    rows = [ROWS[kind], second, {"content": "no notebook", "message": "", "events": []}]
    path = write_files(tmp_path, {"x.jsonl": "\n".join(map(json.dumps, rows))}) / "x.jsonl"
    report, found = prepared(tmp_path / "out", [{"path": str(path), "kind": kind}], format={"family": "starcoder"})
    expected = documents_of(kind, ROWS[kind], "starcoder", 1234)
    assert expected in found and len(found) == 2
    assert all(one.kind == kind.removesuffix("-script") for one in found)
    assert report.steps[0].dropped == 1 and dict(report.steps[-1].counts)["documents changed"] == 1
    assert any("<EMAIL>" in one.content for one in found) and not any("corp.io" in one.content for one in found)


def test_a_folder_of_notebooks(tmp_path: Path) -> None:
    root = write_files(tmp_path / "books", {"a.ipynb": NOTEBOOK, "b.ipynb": NOTEBOOK.replace("x", "y"), "c.ipynb": "{"})
    report, found = prepared(
        tmp_path / "out", [{"path": str(root), "kind": "notebook"}], format={"family": "starcoder2"}
    )
    assert sorted(one.path for one in found) == ["a.ipynb", "b.ipynb"]
    assert [reason.samples for reason in report.steps[0].reasons] == [("c.ipynb",)]


def checkout(root: Path, name: str, files: dict[str, str], licence: str = "") -> None:
    """A folder that looks like a clone of owner/name."""
    config = f'[core]\n[remote "origin"]\n\turl = https://host/owner/{name}.git\n'
    write_files(root / name, {".git/HEAD": "ref: refs/heads/main\n", ".git/config": config, **files})
    if licence:
        (root / name / "LICENSE").write_text(licence)


MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007"


@pytest.fixture
def checkouts(tmp_path: Path) -> Path:
    root = tmp_path / "clones"
    checkout(root, "free", {"src/a.py": code(1, 40), "b.py": code(2, 40)}, MIT)
    checkout(root, "copyleft", {"c.py": code(3, 40)}, GPL)
    checkout(root, "silent", {"d.py": code(4, 40)})
    write_files(root, {"loose.py": code(5, 40)})
    return root


def test_files_of_checkouts_know_their_repository_and_licence(checkouts: Path, tmp_path: Path) -> None:
    source = {"path": str(checkouts), "repository": "me/loose", "licence": "0BSD", "name": "clones"}
    report, found = prepared(tmp_path / "out", [source])
    facts = {one.path: (one.repository, one.licenses) for one in found}
    assert facts == {
        "src/a.py": ("owner/free", ("MIT",)),
        "b.py": ("owner/free", ("MIT",)),
        "c.py": ("owner/copyleft", ("GPL-3.0-only",)),
        "d.py": ("owner/silent", ("0BSD",)),
        "loose.py": ("me/loose", ("0BSD",)),
    }
    assert all(one.date for one in found if one.path != "loose.py")
    assert report.steps[0].counts == {"from clones": 5}


@pytest.mark.parametrize(
    ("filters", "kept", "reasons"),
    [
        ({"licences": ["permissive"]}, {"src/a.py", "b.py", "d.py", "loose.py"}, {"a licence that is not allowed": 1}),
        (
            {"licences": ["mit"], "unlicensed": "drop"},
            {"src/a.py", "b.py"},
            {"no licence": 2, "a licence that is not allowed": 1},
        ),
        ({"unlicensed": "drop"}, {"src/a.py", "b.py", "c.py"}, {"no licence": 2}),
    ],
)
def test_licences(
    filters: dict[str, Any], kept: set[str], reasons: dict[str, int], checkouts: Path, tmp_path: Path
) -> None:
    report, found = prepared(tmp_path / "out", [{"path": str(checkouts)}], filters=filters)
    assert {one.path for one in found} == kept
    step = next(step for step in report.steps if step.step == "licences")
    assert {reason.reason: reason.documents for reason in step.reasons} == reasons


def test_decontamination_names_what_was_found(tmp_path: Path) -> None:
    root = write_files(tmp_path / "code", {f"{n}.py": code(n, 40) for n in range(4)})
    (root / "leak.py").write_text(code(9, 40) + "def f():\n    RETURN the_very_secret   (solution)\n")
    (tmp_path / "own.txt").write_text("return the_very_secret(solution)\n")
    report, found = prepared(tmp_path / "out", [{"path": str(root)}], decontaminate=[str(tmp_path / "own.txt")])
    assert {one.path for one in found} == {f"{n}.py" for n in range(4)}
    step = next(step for step in report.steps if step.step == "decontamination")
    assert [(one.documents, one.samples) for one in step.reasons] == [(1, ("leak.py (holds own:1)",))]
    (tmp_path / "own.txt").write_text("something else altogether\n")
    assert len(prepared(tmp_path / "out", [{"path": str(root)}], decontaminate=[str(tmp_path / "own.txt")])[1]) == 5


def test_metadata_in_front_of_files(checkouts: Path, tmp_path: Path) -> None:
    rates = {"family": "starcoder", "repository_rate": 1.0, "path_rate": 1.0, "stars_rate": 0.0}
    _, found = prepared(tmp_path / "out", [{"path": str(checkouts)}], format=rates)
    one = next(one for one in found if one.path == "src/a.py")
    assert one.parts == (("<reponame>", "owner/free"), ("<filename>", f"src/a.py\n{code(1, 40)}"))
    plain = prepared(tmp_path / "plain", [{"path": str(checkouts)}])[1]
    assert [one.path for one in plain] == [one.path for one in found] and not any(one.parts for one in plain)


def test_repositories_stay_whole_and_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "clones"
    for number in range(12):
        checkout(root, f"r{number}", {f"f{n}.py": code(10 * number + n, 40) + "# me@corp.io\n" for n in range(5)})
    chosen = {"family": "starcoder2", "repositories": True}
    sources = [{"path": str(root)}]
    report, found = prepared(tmp_path / "out", sources, format=chosen, validation_share=0.3)
    assert sorted(one.repository for one in found) == sorted(f"owner/r{number}" for number in range(12))
    assert all([special for special, _ in one.parts].count("<file_sep>") == 5 for one in found)
    assert all("<EMAIL>" in one.content and one.kind == "repository" for one in found)
    assert report.train.documents + report.validation.documents == 12 and report.validation.documents > 1
    monkeypatch.setattr(plan, "BUCKET_BYTES", 5_000)
    executor = {"tasks": 5, "workers": 1}
    cut = prepared(tmp_path / "cut", sources, format=chosen, validation_share=0.3, executor=executor)[1]
    assert cut == found and len(result_of(tmp_path / "cut")) > 5
    small = prepared(tmp_path / "small", sources, format={**chosen, "most_characters": 500}, validation_share=0.3)
    sides = [
        {one.repository for path in (tmp_path / "small" / side).iterdir() for one in read_documents(path)}
        for side in ("train", "validation")
    ]
    assert len(small[1]) > 12 and not sides[0] & sides[1]


def test_special_tokens_of_redaction_with_starcoder2(tmp_path: Path) -> None:
    files = {"a.py": code(1, 40) + "# me@corp.io\n", "b.py": code(2, 40)}
    root = write_files(tmp_path / "code", files)
    _, found = prepared(tmp_path / "out", [{"path": str(root)}], format={"family": "starcoder2"})
    assert [part[0] for one in found for part in one.parts] == ["", "<EMAIL>"]
