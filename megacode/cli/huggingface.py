"""`megacode import` and `megacode export`: to and from Hugging Face folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from megacode import console

AsJson = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
Out = Annotated[Path, typer.Option(help="folder to write")]
Dtype = Annotated[Optional[str], typer.Option("--dtype", help="bf16, fp16 or fp32; default: as it is")]  # noqa: UP045
Compare = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--compare/--no-compare", help="logits with transformers; default: where it is installed and memory suffices"
    ),
]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    folder: Annotated[Path, typer.Argument(help="Hugging Face model folder", metavar="HF_FOLDER")],
    out: Out,
    dtype: Dtype = None,
    activation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="instead of config.json's; gelu_pytorch_tanh where it says gelu against the truth"),
    ] = None,
    without_tokenizer: Annotated[bool, typer.Option("--without-tokenizer", help="leave it out")] = False,
    compare: Compare = None,
    as_json: AsJson = False,
) -> None:
    """Turn a StarCoder or StarCoder2 folder into a checkpoint that runs start from (checkpoint.init_from)."""
    from megacode.checkpoint.huggingface.import_model import ImportOptions, import_model
    from megacode.checkpoint.huggingface.model_section import render_section

    report = import_model(folder, out, ImportOptions(dtype, activation, not without_tokenizer, compare))
    if as_json:
        console.result_json({**asdict(report), "model": report.model.model_dump(mode="json")})
        return
    console.result(f"{out}: {report.parameters:,} parameters of {report.architecture}, {report.precision}")
    for note in report.notes:
        console.result(f"note: {note}")
    if report.tokenizer:
        console.result(f"{out / 'tokenizer'}: {report.tokenizer[:12]}")
    console.result(f"{report.comparison}\n\n{render_section(report.model)}")


def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint folder, or a run folder for its newest")],
    out: Out,
    tokenizer: Annotated[Optional[Path], typer.Option(help="default: the run's own")] = None,  # noqa: UP045
    dtype: Dtype = None,
    compare: Compare = None,
    as_json: AsJson = False,
) -> None:
    """Write a Hugging Face folder, and compare its logits with the engine's."""
    from megacode.checkpoint.huggingface.export import export

    report = export(checkpoint, out, tokenizer, dtype, compare)
    if as_json:
        console.result_json(asdict(report))
        return
    console.result(f"{out}: {report.parameters:,} parameters, {report.architecture}, {report.dtype}")
    if not report.tokenizer:
        console.result("without a tokenizer: the model was imported without one; --tokenizer names its folder")
    console.result(report.comparison)
