"""The configuration of a preparation: read from TOML, the command line or both, with all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacode.config import ConfigError
from megacode.config.prepare_load import load_prepare
from megacode.config.prepare_reference import render_prepare_reference
from megacode.data.prepare import options_from
from megacode.data.prepare.options import options_of

FILE = """
[[sources]]
path = "code"
repository = "me/it"

[[sources]]
path = "issues"
kind = "issue"

[output]
folder = "out"

[format]
family = "starcoder"

[executor]
kind = "slurm"
tasks = 500
sbatch = { account = "me" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prepare.toml"
    path.write_text(FILE)
    return path


def problems(path: Path | None, *overrides: str, **given: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_prepare(path, overrides, given)
    assert caught.value.exit_code == 2
    return [" ".join(str(problem).split()) for problem in caught.value.problems]


def test_a_file_and_overrides(file: Path) -> None:
    config = load_prepare(
        file, ["limits.on_damage=skip", "deduplicate.threshold=0.8", 'filters.licences=["permissive"]']
    )
    options = options_from(config.tables())
    assert [(one.path, one.kind, one.repository) for one in options.sources] == [
        ("code", "code", "me/it"),
        ("issues", "issue", ""),
    ]
    assert (options.out, options.format.family, options.limits.on_damage) == (Path("out"), "starcoder", "skip")
    assert (options.deduplicate.threshold, options.filters.licences) == (0.8, ("permissive",))
    assert (options.executor.kind, options.executor.tasks, options.executor.sbatch) == ("slurm", 500, {"account": "me"})


def test_a_file_that_says_only_what_it_must_means_the_defaults_of_the_options() -> None:
    config = load_prepare(None, [], {"sources": [{"path": "code"}], "output.folder": "out"})
    assert options_from(config.tables()) == options_of(Path("code"), Path("out"))


def test_the_command_line_goes_before_the_file(file: Path) -> None:
    config = load_prepare(
        file, ["split.validation_share=0.5"], {"output.folder": "there", "split.validation_share": 0.1}
    )
    assert (config.output.folder, config.split.validation_share) == ("there", 0.5)


def test_every_mistake_is_told_at_once(file: Path) -> None:
    said = problems(
        file,
        "filter.rules=none",
        "split.validation_share=1.0",
        "limits.most_file_bytes=0",
        "deduplicate.near=false",
        "deduplicate.threshold=0.9",
        "nonsense",
    )
    assert said == [
        "override = 'nonsense' must be section.key=value; for example parallel.tp=2",
        "split.validation_share = 1.0 input should be less than 1",
        "limits.most_file_bytes = 0 input should be greater than 0",
        "filter unknown key; did you mean filters?",
        "deduplicate.threshold = 0.9 has no effect with near = false; remove it",
    ]


def test_mistakes_in_a_source_name_it(file: Path) -> None:
    file.write_text(FILE.replace('kind = "issue"', 'kind = "isue"\nlicense = "MIT"'))
    said = problems(file)
    assert said[0].startswith("sources.1.kind = 'isue' input should be 'code'")
    assert said[1] == "sources.1.license unknown key; did you mean sources.licence?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("format.family=plain", "sources.1.kind = issue needs the special tokens of starcoder or starcoder2"),
        ("format.repositories=true", "format.repositories = true is a format of starcoder2"),
        ("format.most_characters=5", "format.most_characters = 5 has no effect without format.repositories"),
        ('sources=[{path="x",kind="commit"}]', ""),
        ("sources=[]", "sources = [] tuple should have at least 1 item"),
        ('output.folder=""', "output.folder = '' string should have at least 1 character"),
        ("output.folder=3", "output.folder = 3 input should be a valid string"),
    ],
)
def test_rules(file: Path, override: str, message: str) -> None:
    if not message:
        assert load_prepare(file, [override]).sources[0].kind == "commit"
        return
    assert any(said.startswith(message) for said in problems(file, override))


def test_commits_need_starcoder(file: Path) -> None:
    said = problems(file, 'sources=[{path="x",kind="commit"}]', "format.family=starcoder2", "format.path_rate=0.5")
    assert said[0].startswith("sources.0.kind = commit needs the special tokens of starcoder,")
    assert said[1].startswith("format.path_rate = 0.5 has no effect with format.family starcoder2")


def test_what_is_missing_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert problems(None) == ["sources is missing; it has no default", "output is missing; it has no default"]
    assert "does not exist" in problems(tmp_path / "none.toml")[0]
    (tmp_path / "bad.toml").write_text("[x")
    assert "is not readable TOML" in problems(tmp_path / "bad.toml")[0]


def test_the_documentation_has_every_key() -> None:
    page = Path(__file__).parents[2] / "docs" / "preparing.md"
    assert page.read_text(encoding="utf-8").endswith(render_prepare_reference())


def test_the_documentations_example_is_sound(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "preparing.md").read_text(encoding="utf-8")
    (tmp_path / "prepare.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    assert len(load_prepare(tmp_path / "prepare.toml").sources) == 3
