"""`megacode prepare`: the simple call and the configured one, results on stdout, mistakes on stderr with exit codes."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
from corpus import many_files, result_of

from megacode.cli import main


def call(*words: object) -> int:
    """Run the command line in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["prepare", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return many_files(tmp_path / "code", 4)


def test_the_simple_call(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call("--source", source, "--out", out, "--validation-share", 0.2) == 0
    said = capsys.readouterr()
    assert said.out.startswith("step") and f"{out / 'train'}  " in said.out and said.err == ""
    assert call("--source", source, "--out", out, "--validation-share", 0.2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reused"] and report["train"]["documents"] + report["validation"]["documents"] == 8
    assert report["options"]["validation_share"] == 0.2


def test_a_file_means_what_the_simple_call_means(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "prepare.toml"
    file.write_text(f'[[sources]]\npath = "{source}"\n[output]\nfolder = "{tmp_path / "a"}"\n[limits]\nfiles = 12\n')
    assert call(file) == 0
    assert call(file, "--out", tmp_path / "b", "executor.tasks=2") == 0
    assert call("--source", source, "--out", tmp_path / "c", "limits.files=12") == 0
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b") == result_of(tmp_path / "c")


def test_without_a_source_it_is_the_standard_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", tmp_path / "out", "limits.files=30", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["options"]["sources"][0]["path"] == str(Path(sysconfig.get_path("stdlib")).resolve())


def test_mistakes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--source", source) == 2
    assert "output  " in (said := capsys.readouterr().err) and "is missing" in said
    assert call("--source", source, "--out", tmp_path / "out", "limits.fils=3", "redact.enabled=7") == 2
    said = capsys.readouterr().err
    assert "prepare: 2 problems" in said and "did you mean limits.files?" in said and "redact.enabled = 7" in said
    assert call("--source", tmp_path / "nowhere", "--out", tmp_path / "out") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert call(tmp_path / "none.toml") == 2
    assert "none.toml" in capsys.readouterr().err
