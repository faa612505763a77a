"""StarCoder2 as Hugging Face's Starcoder2ForCausalLM: the names and shapes of its weights, and its config.json.

It has any number of key-value heads, and rotary positions only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from megacode.checkpoint.huggingface import names
from megacode.checkpoint.huggingface.names import HubNames, ReadTensor
from megacode.checkpoint.huggingface.settings import FREE, Settings
from megacode.config.schema import ModelConfig

ARCHITECTURES = ("Starcoder2ForCausalLM",)
MODEL_TYPE = "starcoder2"
ACTIVATION = "hidden_act"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Angles' frequencies, which follow from rope_theta; older versions stored them among the weights.
IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
DEFAULT_THETA = 10_000.0  # transformers', where config.json names none

_PER_LAYER = MappingProxyType(
    {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.query",
        "self_attn.o_proj": "attention.out",
        "post_attention_layernorm": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
)


_OWN_PER_LAYER = MappingProxyType({own: hub for hub, own in _PER_LAYER.items()})
_OWN_ENDS = MappingProxyType(
    {
        "embedding.tokens.weight": EMBEDDING,
        "final_norm.weight": "model.norm.weight",
        "final_norm.bias": "model.norm.bias",
        "head.weight": HEAD,
    }
)


def lacks(model: ModelConfig) -> Iterator[str]:
    """What Starcoder2 cannot express of `model`: nothing, as long as its positions are rotary."""
    if model.positions != "rotary":
        yield f"rotary positions, this model {model.positions} ones"


def hub_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the Hugging Face model, one at a time; `read` gives a logical tensor by its megacode name."""
    yield EMBEDDING, read("embedding.tokens.weight")
    for layer in range(model.layers):
        for part in ("weight", "bias"):
            for hub, own in _PER_LAYER.items():
                yield f"model.layers.{layer}.{hub}.{part}", read(f"layers.{layer}.{own}.{part}")
            key, value = read(f"layers.{layer}.attention.key_value.{part}")
            yield f"model.layers.{layer}.self_attn.k_proj.{part}", key
            yield f"model.layers.{layer}.self_attn.v_proj.{part}", value
    for part in ("weight", "bias"):
        yield f"model.norm.{part}", read(f"final_norm.{part}")
    if not model.tied:
        yield HEAD, read("head.weight")


def own_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every logical tensor, in the order of `logical_shapes`; `read` gives a tensor of the Hugging Face model."""

    def both(prefix: str, own: str, part: str) -> Tensor:
        return torch.stack([read(f"{prefix}.self_attn.{hub}.{part}") for hub in ("k_proj", "v_proj")])

    return names.own_tensors(model, read, HubNames(_OWN_ENDS, _OWN_PER_LAYER, "model.layers"), both)


def read_settings(settings: Settings) -> dict[str, Any]:
    """The model section that computes what a config.json says; what cannot be is noted in `settings`."""
    settings.fixed("use_bias", True, "every linear layer has a bias")
    settings.fixed("attention_bias", True, "every linear layer has a bias")
    settings.fixed("norm_type", "layer_norm", "its norms are LayerNorm")
    settings.fixed("mlp_type", "default", "its MLP has no gate")
    settings.free(*FREE)
    hidden, heads = settings.integer("hidden_size", "hidden"), settings.integer("num_attention_heads", "heads")
    if heads and hidden % heads == 0:
        settings.fixed("head_dim", hidden // heads, "heads are hidden_size / num_attention_heads wide")
    return {
        "layers": settings.integer("num_hidden_layers", "layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": settings.integer("num_key_value_heads", "kv_heads"),
        "ffn": settings.integer("intermediate_size", "ffn"),
        "vocab": settings.integer("vocab_size", "vocab"),
        "context": settings.integer("max_position_embeddings", "context"),
        "positions": "rotary",
        "rope_theta": _rope_theta(settings),
        "window": _window(settings),
        "norm_eps": settings.number("norm_epsilon", "norm_eps", 1e-5),
        "init_std": settings.number("initializer_range", "init_std", 0.018042),
        "attention_dropout": settings.number("attention_dropout", "attention_dropout", 0.0),
        "hidden_dropout": settings.number("residual_dropout", "hidden_dropout", 0.0),
        "embedding_dropout": settings.number("embedding_dropout", "embedding_dropout", 0.0),
    }


def _rope_theta(settings: Settings) -> float:
    """The base of the angles, from `rope_parameters` (transformers 5), `rope_theta` (before it), or the default."""
    by_key = {}
    for key in ("rope_parameters", "rope_scaling"):
        rope = settings.table_of(key)
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        if kind != "default":
            settings.problem(key, f"type {kind!r}", "scales the angles, which megacode does not")
            rope = {"rope_theta": rope.get("rope_theta", DEFAULT_THETA)}
        if rope.pop("partial_rotary_factor", 1.0) != 1.0:
            settings.problem(key, "partial_rotary_factor", "turns a part of each head; megacode turns all of it")
        if (theta := rope.pop("rope_theta", None)) is not None:
            by_key[key] = theta
        if rope:
            settings.problem(key, ", ".join(sorted(map(str, rope))), "is not known to megacode")
    settings.fixed("partial_rotary_factor", 1.0, "all of each head is turned")
    if (old := settings.number("rope_theta", "rope_theta", None)) is not None:
        by_key["rope_theta"] = old
    if len(set(map(repr, map(_as_float, by_key.values())))) > 1:
        settings.problem("rope_theta", str(by_key), "differ; which one the model was trained with, the files don't say")
    if not by_key:
        settings.note(f"config.json names no rope_theta: {DEFAULT_THETA:g}, as transformers takes it")
    return _as_float(next(iter(by_key.values()), DEFAULT_THETA))


def _as_float(value: Any) -> Any:
    """Whole numbers are as good as others; what is no number is left for the model's own check to refuse."""
    return float(value) if type(value) is int else value


def _window(settings: Settings) -> int | None:
    window = settings.optional_integer("sliding_window", "window")
    if settings.flag("use_sliding_window", True) is False:
        window = None
    expected = "full_attention" if window is None else "sliding_attention"
    if strange := sorted({str(kind) for kind in settings.list_of("layer_types")} - {expected}):
        settings.problem("layer_types", ", ".join(strange), f"differs from sliding_window, which makes all {expected}")
    return window


def hub_config(model: ModelConfig, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json of the exported model.

    `sliding_window` counts the token itself, as `model.window` does. Old and new spellings of a key are both written
    where versions of transformers differ: the base of the rotary angles is `rope_theta` up to 4, in `rope_parameters`
    since 5.
    """
    return {
        "architectures": [ARCHITECTURES[0]],
        "model_type": MODEL_TYPE,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": model.context,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "sliding_window": model.window,
        "vocab_size": model.vocab,
        "norm_type": "layer_norm",
        "norm_epsilon": model.norm_eps,
        "mlp_type": "default",
        "use_bias": True,
        "initializer_range": model.init_std,
        "attention_dropout": model.attention_dropout,
        "residual_dropout": model.hidden_dropout,
        "embedding_dropout": model.embedding_dropout,
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
