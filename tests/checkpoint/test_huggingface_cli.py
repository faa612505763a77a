"""`megacode import` and `megacode export` as they are typed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from hub_files import BIGCODE, edit_config, write_hub
from typer.testing import CliRunner

from megacode.checkpoint.errors import CheckpointError
from megacode.cli.huggingface import register


@pytest.fixture
def app() -> typer.Typer:
    """A command line of these two commands."""
    made = typer.Typer()
    register(made)
    return made


def test_import_and_export_say_what_they_made(app: typer.Typer, tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", torch.bfloat16, **BIGCODE)
    edit_config(tmp_path / "hub", activation_function="gelu")
    runner, base, back = CliRunner(), str(tmp_path / "base"), str(tmp_path / "back")
    command = ["import", str(tmp_path / "hub"), "--out", base, "--no-compare"]
    failed = runner.invoke(app, command)
    assert isinstance(failed.exception, CheckpointError) and "--activation" in str(failed.exception)
    said = runner.invoke(app, [*command, "--activation", "gelu_pytorch_tanh"])
    assert said.exit_code == 0, said.output
    assert "parameters of GPTBigCodeForCausalLM, bf16" in said.stdout and "logits NOT compared" in said.stdout
    assert tomllib.loads("[model]" + said.stdout.partition("[model]")[2])["model"]["hidden"] == 32
    said = runner.invoke(app, ["export", base, "--out", back, "--no-compare", "--dtype", "fp32", "--json"])
    assert said.exit_code == 0, said.output
    report = json.loads(said.stdout)
    assert (report["architecture"], report["dtype"], report["folder"]) == ("GPTBigCodeForCausalLM", "float32", back)
    again = runner.invoke(app, [*command, "--activation", "gelu_pytorch_tanh", "--dtype", "fp16", "--json"])
    assert json.loads(again.stdout)["precision"] == "fp16" and json.loads(again.stdout)["model"]["heads"] == 4
