"""Run as a program of its own: loads a Hugging Face folder with transformers and compares its logits with a probe's.

    python -m megacode.checkpoint.huggingface.compare FOLDER PROBE.safetensors OVERRIDES

The engine itself never imports transformers; this is the only file that does. OVERRIDES of config.json are JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from megacode.console import result

# What old files hold beside the weights, and what an import leaves out too.
_BUFFERS = re.compile(r".*(attn\.(masked_)?bias|transformer\.bias|inv_freq)")


def main(folder: str, probe: str, overrides: str) -> None:
    """Print the largest absolute difference of a logit in fp32 as JSON; fails if weights are missing or left over."""
    expected = safetensors.torch.load_file(probe)
    config = AutoConfig.from_pretrained(folder, **json.loads(overrides))
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    loading["unexpected_keys"] = [key for key in loading["unexpected_keys"] if not _BUFFERS.fullmatch(key)]
    unmatched = {key: sorted(loading[key]) for key in ("missing_keys", "unexpected_keys") if loading[key]}
    if unmatched:
        raise SystemExit(f"names do not match: {unmatched}")
    if (Path(folder) / "tokenizer.json").is_file():
        AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(expected["tokens"]).logits
    result(json.dumps({"largest_difference": float((logits - expected["logits"]).abs().max())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
