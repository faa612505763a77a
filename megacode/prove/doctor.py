"""What this machine has for training, and which implementation of each operation a run would take on it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from megacode.kernels.dispatch import IMPLEMENTATIONS, KernelUnavailable, choose


def examine() -> dict[str, Any]:
    """Return versions, GPUs, NVIDIA apex or why not, and by device and request the implementation of each operation."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if "cuda" in devices else None,
        "cpus": torch.get_num_threads(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "apex": _apex(),
        "kernels": {device: {request: _chosen(request, device) for request in IMPLEMENTATIONS} for device in devices},
    }


def render(found: dict[str, Any]) -> str:
    """The same for a person: each line says one thing."""
    lines = [f"{name:8} {found[name] or 'missing'}" for name in ("python", "torch", "cuda", "triton", "nccl")]
    lines += [f"{'apex':8} {found['apex']}"]
    if not found["gpus"]:
        lines.append(f"{'GPUs':8} none that torch sees")
    for number, gpu in enumerate(found["gpus"]):
        lines.append(
            f"{'GPU ' + str(number):8} {gpu['name']}, sm_{gpu['capability']}, {gpu['memory_bytes'] / 2**30:.0f} GiB"
        )
    for device, by_request in found["kernels"].items():
        for request, chosen in by_request.items():
            lines.append(f"\nkernels.implementation = {request!r} on {device}:")
            if isinstance(chosen, str):
                lines.append(f"  not here: {chosen}")
                continue
            ops_by_name: dict[str, list[str]] = {}
            for op, name in chosen.items():
                ops_by_name.setdefault(name, []).append(op)
            lines += [f"  {name}: {', '.join(ops)}" for name, ops in ops_by_name.items()]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = 10 * properties.major + properties.minor
    return {"name": properties.name, "capability": capability, "memory_bytes": properties.total_memory}


def _apex() -> str:
    """What NVIDIA apex offers, or why it cannot be used: the package of that name on PyPI is another one."""
    from megacode.kernels.apex import ApexUnavailable, find_apex

    try:
        find_apex()
    except ApexUnavailable as error:
        return str(error)
    return "NVIDIA's, with its extensions"


def _chosen(request: str, device: str) -> dict[str, str] | str:
    """Names by operation, or why this request cannot run here."""
    try:
        return dict(choose(request, device).name_by_op)
    except KernelUnavailable as error:
        return str(error)
