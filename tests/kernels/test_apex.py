"""apex's operations are called as apex wants and mean what ours mean; without it, the error says what is missing.

apex needs a GPU: modules of its names stand in here, with its documented arguments, computed in torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels import reference
from megacode.kernels.apex import ApexUnavailable, find_apex
from megacode.kernels.torch_optim_loss import AdamWHyper

HYPER = AdamWHyper(1e-2, 0.9, 0.95, 1e-8, 0.1)


def multi_tensor_adam(chunk: int, overflow: Tensor, tensors: list[list[Tensor]], *numbers: float) -> None:
    """What apex documents: mode 1 is decoupled decay, which acts on the value before the update."""
    lr, beta1, beta2, eps, step, mode, bias_correction, decay = numbers
    assert chunk > 0 and overflow.dtype == torch.int32 and overflow.shape == (1,)
    assert (mode, bias_correction) == (1, 1)
    for gradient, value, mean, square in zip(*tensors, strict=True):
        mean.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        change = (mean / (1.0 - beta1**step)) / ((square / (1.0 - beta2**step)).sqrt() + eps)
        value.sub_(lr * (change + decay * value))


def forward_affine(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and one mean and inverse deviation a row."""
    assert x.is_contiguous() and tuple(shape) == weight.shape
    output, mean, inverse_deviation = torch.native_layer_norm(x, list(shape), weight, bias, eps)
    return output, mean.flatten(), inverse_deviation.flatten()


def backward_affine(
    grad: Tensor, mean: Tensor, inverse_deviation: Tensor, x: Tensor, shape: Any, weight: Tensor, bias: Tensor,
    eps: float, memory_efficient: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight and bias."""
    assert grad.is_contiguous() and not memory_efficient and eps == 1e-5
    rows = (*x.shape[:-1], 1)
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, list(shape), mean.view(rows), inverse_deviation.view(rows), weight, bias, [True, True, True]
    )


def install(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Stand-ins for apex's extension modules, with some functions replaced, or missing where None."""
    modules = {
        "amp_C": {"multi_tensor_adam": multi_tensor_adam},
        "fused_layer_norm_cuda": {"forward_affine": forward_affine, "backward_affine": backward_affine},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        for member, function in members.items():
            chosen = functions.get(member, function)
            if chosen is not None:
                setattr(module, member, chosen)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("divisor", [None, 2.5])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_adamw_is_ours(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None, divisor: float | None) -> None:
    install(monkeypatch)
    adamw = find_apex().adamw
    torch.manual_seed(0)
    state = [torch.randn(100), torch.zeros(100), torch.zeros(100)]
    expected = [tensor.clone() for tensor in state]
    weights = None if dtype is None else torch.zeros(100, dtype=dtype)
    by = None if divisor is None else torch.tensor(divisor)
    for update in (1, 2, 3):
        gradient = torch.randn(100)
        reference.adamw(*expected, gradient, None, HYPER, update, by)
        adamw(*state, gradient, weights, HYPER, update, by)
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-6)
    assert weights is None or torch.equal(weights, state[0].to(weights.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_is_ours(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Rows side by side and not, with a gradient that autograd expanded."""
    install(monkeypatch)
    layer_norm = find_apex().layer_norm
    torch.manual_seed(0)
    weight, bias = (torch.randn(12, dtype=dtype, requires_grad=True) for _ in range(2))
    for x in (torch.randn(2, 3, 12, dtype=dtype), torch.randn(3, 2, 12, dtype=dtype).transpose(0, 1)):
        leaves = [x.requires_grad_(), weight, bias]
        actual, expected = layer_norm(*leaves, 1e-5), functional.layer_norm(x, (12,), weight, bias, 1e-5)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
        )
    with pytest.raises(ValueError, match="takes one dtype"):
        layer_norm(x, weight.double(), bias, 1e-5)


def without_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of either fails, whether or not this machine has apex."""
    for name in ("amp_C", "fused_layer_norm_cuda"):
        monkeypatch.setitem(sys.modules, name, None)


def package_named_apex(folder: Path, monkeypatch: pytest.MonkeyPatch, *subpackages: str) -> None:
    """A package named apex, first on the path, that must not be imported."""
    for package in ("apex", *(f"apex/{name}" for name in subpackages)):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise AssertionError('apex was imported')")
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    monkeypatch.syspath_prepend(folder)


def test_no_apex_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    without_extensions(monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ApexUnavailable, match=r"NVIDIA apex is not installed: amp_C cannot be imported.* 'auto'"):
        find_apex()
    assert issubclass(ApexUnavailable, ValueError)


def test_another_package_of_that_name_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_extensions(monkeypatch)
    package_named_apex(tmp_path, monkeypatch, "lib")
    with pytest.raises(ApexUnavailable, match=r"the package named apex that is installed is not NVIDIA's: amp_C"):
        find_apex()


def test_a_module_named_apex_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_extensions(monkeypatch)
    (tmp_path / "apex.py").write_text("raise AssertionError('apex was imported')")
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ApexUnavailable, match="is not NVIDIA's"):
        find_apex()


def test_an_apex_without_extensions_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_extensions(monkeypatch)
    package_named_apex(tmp_path, monkeypatch, "multi_tensor_apply")
    with pytest.raises(ApexUnavailable, match="installed without its CUDA extensions"):
        find_apex()


def test_an_extension_that_does_not_load_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package_named_apex(tmp_path, monkeypatch, "multi_tensor_apply")
    (tmp_path / "amp_C.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "amp_C", raising=False)
    with pytest.raises(ApexUnavailable, match=r"or they do not fit this torch: amp_C cannot be imported \(libcudart"):
        find_apex()


@pytest.mark.parametrize(
    ("function", "module"),
    [("multi_tensor_adam", "amp_C"), ("forward_affine", "fused_layer_norm_cuda")],
)
def test_an_extension_without_the_function_is_refused(
    monkeypatch: pytest.MonkeyPatch, function: str, module: str
) -> None:
    install(monkeypatch, **{function: None})
    with pytest.raises(ApexUnavailable, match=f"{module} is installed and has no {function}"):
        find_apex()
