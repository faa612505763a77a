"""Run as a program of its own: loads an exported folder with transformers and compares its logits with a probe's.

    python -m megacode.checkpoint.huggingface.compare FOLDER PROBE.safetensors

The engine itself never imports transformers; this is the only file that does.
"""

from __future__ import annotations

import json
import sys

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megacode.console import result


def main(folder: str, probe: str) -> None:
    """Print the largest absolute difference of a logit in fp32 as JSON; fails if weights are missing or left over."""
    expected = safetensors.torch.load_file(probe)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    unmatched = {key: sorted(loading[key]) for key in ("missing_keys", "unexpected_keys") if loading[key]}
    if unmatched:
        raise SystemExit(f"names do not match: {unmatched}")
    AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(expected["tokens"]).logits
    result(json.dumps({"largest_difference": float((logits - expected["logits"]).abs().max())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
