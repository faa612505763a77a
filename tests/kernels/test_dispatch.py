"""Dispatch gives what was asked for or says why not; it never falls back in silence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from megacode.kernels import dispatch, torch_ops


@pytest.mark.parametrize(
    ("requested", "device"), [("auto", "cpu"), ("torch", "cpu"), ("torch", "cuda"), ("auto", "meta")]
)
def test_torch_where_it_is_asked_for_or_there_is_no_gpu(requested: str, device: str) -> None:
    chosen = dispatch.choose(requested, device)
    assert chosen.layer_norm is torch_ops.layer_norm
    assert chosen.causal_attention is torch_ops.causal_attention
    attention = "torch (scaled_dot_product_attention)" if device == "cuda" else "torch (in blocks)"
    special = {"causal_attention": attention, "adamw": "torch (fused)"}
    assert chosen.name_by_op == {**dict.fromkeys(dispatch.OPS, "torch"), **special}
    with pytest.raises(TypeError):
        chosen.name_by_op["adamw"] = "other"  # type: ignore[index]


def test_unknown_request_lists_the_choices() -> None:
    with pytest.raises(dispatch.KernelUnavailable, match="'cutlass' is unknown; choose one of auto, torch, triton"):
        dispatch.choose("cutlass", "cpu")


def run(script: str, **environment: str) -> list[str]:
    """Run Python lines in a fresh process, without TRITON_INTERPRET unless given; returns the lines it wrote."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # an import of it raises ImportError
from megacode.kernels import dispatch
print(dispatch.choose("auto", "cpu").name_by_op["layer_norm"])
for requested in ("triton", "auto"):
    try:
        dispatch.choose(requested, "cuda")
    except dispatch.KernelUnavailable as error:
        print(error)
"""

WITH_TRITON = """
import sys
from megacode.kernels import dispatch
dispatch.choose("auto", "cpu")
print("triton" in sys.modules)
try:
    dispatch.choose("triton", "cpu")
except ValueError as error:
    print(type(error).__name__, error)
for requested in ("auto", "triton"):
    chosen = dispatch.choose(requested, "cuda")
    print(chosen.name_by_op["causal_attention"], chosen.layer_norm.__module__)
"""


def test_a_machine_without_triton_runs_torch_and_refuses_triton() -> None:
    name, *errors = run(WITHOUT_TRITON)
    assert name == "torch"
    assert len(errors) == 2
    for error in errors:
        assert "cannot be imported" in error and "install megacode[gpu], or set kernels = 'torch'" in error


def test_triton_is_imported_only_when_chosen_and_needs_a_gpu() -> None:
    imported, error, *chosen = run(WITH_TRITON)
    assert imported == "False"
    assert error.startswith("KernelUnavailable kernels = 'triton' needs a CUDA device, and this run is on 'cpu'")
    assert "TRITON_INTERPRET=1" in error
    assert len(chosen) == 2
    for line in chosen:
        assert line.startswith("triton ") and line.endswith("(flash) megacode.kernels.layer_norm")


@pytest.mark.parametrize(
    ("device", "ops", "said"),
    [
        ("cpu", ("adamw",), "needs a CUDA device"),
        ("cuda", ("rotary",), "apex has no rotary here"),
        ("cuda", ("layer_norm",), "apex"),
    ],
)
def test_apex_where_it_is_not_is_an_error_and_no_fallback(device: str, ops: tuple[str, ...], said: str) -> None:
    with pytest.raises(dispatch.KernelUnavailable, match=said):
        dispatch.choose("torch", device, ops)


def test_every_operation_is_told_of() -> None:
    fields = set(dispatch.Implementations.__dataclass_fields__)
    assert fields == {*dispatch.OPS, "name_by_op", "bias_gelu_again", "prepare_documents"}
