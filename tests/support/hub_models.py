"""Tiny Hugging Face models with random weights, made and saved by transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

ENDS = MappingProxyType({"bos_token_id": 0, "eos_token_id": 0})


def bigcode(**settings: Any) -> Any:
    """A GPTBigCodeForCausalLM of two layers, multi-query and tied unless told otherwise."""
    sizes = {"vocab_size": 96, "n_positions": 40, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 80}
    return _unlike_new(GPTBigCodeForCausalLM(GPTBigCodeConfig(**{**sizes, **ENDS, **settings})))


def starcoder2(**settings: Any) -> Any:
    """A Starcoder2ForCausalLM of two layers, with two key-value heads, tied and without a window unless told so."""
    sizes = {
        "vocab_size": 96,
        "max_position_embeddings": 40,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 2e4},
    }
    return _unlike_new(Starcoder2ForCausalLM(Starcoder2Config(**{**sizes, **ENDS, **settings})))


# Both families; multi-query, grouped-query and multi-head attention; tied and untied; window and none.
MODELS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "starcoder": bigcode,
        "starcoder multi-head untied": lambda: bigcode(multi_query=False, tie_word_embeddings=False),
        "starcoder2": starcoder2,
        "starcoder2 multi-query window": lambda: starcoder2(num_key_value_heads=1, sliding_window=9),
        "starcoder2 untied window": lambda: starcoder2(tie_word_embeddings=False, sliding_window=5),
        "starcoder2 multi-head untied": lambda: starcoder2(num_key_value_heads=4, tie_word_embeddings=False),
    }
)


def _unlike_new(model: Any) -> Any:
    """Move every parameter from where it begins, biases and norms too, so that each of them matters."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()}


def assert_same_tensors(one: Path, other: Path) -> None:
    """Fail unless two folders hold the same tensors, bit for bit, of the same types."""
    left, right = tensors_in(one), tensors_in(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), right[name].view(torch.uint8)), name
