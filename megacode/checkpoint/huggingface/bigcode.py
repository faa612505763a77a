"""StarCoder as Hugging Face's GPTBigCodeForCausalLM: the names and shapes of its weights, and its config.json.

`c_attn` holds queries, keys and values: [ query | key | value ] by rows with one key-value head, and
[ query, key, value ] head after head with as many as query heads. Other numbers it cannot express.
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

# The second name is that of the first releases, before transformers had the architecture.
ARCHITECTURES = ("GPTBigCodeForCausalLM", "GPTBigCodeLMHeadModel")
MODEL_TYPE = "gpt_bigcode"
ACTIVATION = "activation_function"
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
# Causal masks, which older versions stored among the weights.
IGNORED = re.compile(r"transformer\.bias|transformer\.h\.\d+\.attn\.(masked_)?bias")

_PER_LAYER = MappingProxyType(
    {
        "ln_1": "attention_norm",
        "attn.c_proj": "attention.out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
)
_ENDS = MappingProxyType(
    {
        EMBEDDING: "embedding.tokens.weight",
        "transformer.wpe.weight": "embedding.positions.weight",
        "transformer.ln_f.weight": "final_norm.weight",
        "transformer.ln_f.bias": "final_norm.bias",
        HEAD: "head.weight",
    }
)
_OWN_ENDS = MappingProxyType({own: hub for hub, own in _ENDS.items()})
_OWN_PER_LAYER = MappingProxyType({own: hub for hub, own in _PER_LAYER.items()})


def lacks(model: ModelConfig) -> Iterator[str]:
    """What GPTBigCode cannot express of `model`: grouped-query attention, and a sliding window."""
    if model.kv_heads not in (1, model.heads):
        yield f"1 or {model.heads} key-value heads, this model {model.kv_heads}"
    if model.window is not None:
        yield f"no sliding window, this model one of {model.window}"


def hub_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the Hugging Face model, one at a time; `read` gives a logical tensor by its megacode name."""
    yield EMBEDDING, read("embedding.tokens.weight")
    yield "transformer.wpe.weight", read("embedding.positions.weight")
    for layer in range(model.layers):
        for part in ("weight", "bias"):
            yield f"transformer.h.{layer}.attn.c_attn.{part}", _fused_attention(model, read, layer, part)
            for hub, own in _PER_LAYER.items():
                yield f"transformer.h.{layer}.{hub}.{part}", read(f"layers.{layer}.{own}.{part}")
    for part in ("weight", "bias"):
        yield f"transformer.ln_f.{part}", read(f"final_norm.{part}")
    if not model.tied:
        yield HEAD, read("head.weight")


def own_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every logical tensor, in the order of `logical_shapes`; `read` gives a tensor of the Hugging Face model."""

    def split(prefix: str, own: str, part: str) -> Tensor:
        fused = read(f"{prefix}.attn.c_attn.{part}")
        return _query(model, fused) if own == "attention.query" else _key_value(model, fused)

    return names.own_tensors(model, read, HubNames(_OWN_ENDS, _OWN_PER_LAYER, "transformer.h"), split)


def _fused_attention(model: ModelConfig, read: ReadTensor, layer: int, part: str) -> Tensor:
    query = read(f"layers.{layer}.attention.query.{part}")
    key, value = read(f"layers.{layer}.attention.key_value.{part}")
    if model.kv_heads == 1:
        return torch.cat([query, key, value])
    heads = [tensor.unflatten(0, (model.heads, model.head_width)) for tensor in (query, key, value)]
    return torch.cat(heads, dim=1).flatten(0, 1)


def _query(model: ModelConfig, fused: Tensor) -> Tensor:
    """[n*d + 2*k*d, ...] -> [n*d, ...]."""
    if model.kv_heads == 1:
        return fused[: model.hidden]
    return fused.unflatten(0, (model.heads, 3, model.head_width))[:, 0].flatten(0, 1)


def _key_value(model: ModelConfig, fused: Tensor) -> Tensor:
    """[n*d + 2*k*d, ...] -> [2, k*d, ...]: keys, then values."""
    if model.kv_heads == 1:
        return fused[model.hidden :].unflatten(0, (2, model.head_width))
    return fused.unflatten(0, (model.heads, 3, model.head_width))[:, 1:].transpose(0, 1).flatten(1, 2)


def read_settings(settings: Settings) -> dict[str, Any]:
    """The model section that computes what a config.json says; what cannot be is noted in `settings`."""
    settings.fixed("scale_attn_weights", True, "attention is divided by the root of the head's width")
    settings.fixed("add_cross_attention", False, "there is no encoder to attend to")
    settings.free("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", *FREE)
    heads = settings.integer("n_head", "heads")
    return {
        "layers": settings.integer("n_layer", "layers"),
        "hidden": settings.integer("n_embd", "hidden"),
        "heads": heads,
        "kv_heads": 1 if settings.flag("multi_query", True) else heads,
        "vocab": settings.integer("vocab_size", "vocab"),
        "context": settings.integer("n_positions", "context"),
        "positions": "learned",
        "norm_eps": settings.number("layer_norm_epsilon", "norm_eps", 1e-5),
        "init_std": settings.number("initializer_range", "init_std", 0.02),
        "attention_dropout": settings.number("attn_pdrop", "attention_dropout", 0.1),
        "hidden_dropout": settings.number("resid_pdrop", "hidden_dropout", 0.1),
        "embedding_dropout": settings.number("embd_pdrop", "embedding_dropout", 0.1),
        **settings.given(ffn=settings.optional_integer("n_inner", "ffn")),
    }


def hub_config(model: ModelConfig, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json of the exported model.

    The activation is the tanh approximation that the model was trained with, which bigcode/starcoder's own file
    misnames as `gelu`. Old and new spellings of a key are both written where versions of transformers differ.
    """
    return {
        "architectures": [ARCHITECTURES[0]],
        "model_type": MODEL_TYPE,
        "activation_function": "gelu_pytorch_tanh",
        "attention_softmax_in_fp32": True,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "multi_query": model.kv_heads == 1,
        "n_embd": model.hidden,
        "n_head": model.heads,
        "n_inner": model.ffn,
        "n_layer": model.layers,
        "n_positions": model.context,
        "vocab_size": model.vocab,
        "layer_norm_epsilon": model.norm_eps,
        "initializer_range": model.init_std,
        "attn_pdrop": model.attention_dropout,
        "resid_pdrop": model.hidden_dropout,
        "embd_pdrop": model.embedding_dropout,
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
