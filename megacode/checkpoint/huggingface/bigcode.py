"""StarCoder as Hugging Face's GPTBigCodeForCausalLM: the names and shapes of its weights, and its config.json.

`c_attn` holds queries, keys and values: [ query | key | value ] by rows with one key-value head, and
[ query, key, value ] head after head with as many as query heads. Other numbers it cannot express.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError
from megacode.config.schema import ModelConfig

ReadTensor = Callable[[str], Tensor]

_PER_LAYER = MappingProxyType(
    {
        "ln_1": "attention_norm",
        "attn.c_proj": "attention.out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
)


def hub_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the Hugging Face model, one at a time; `read` gives a logical tensor by its megacode name.

    Raises CheckpointError for grouped-query attention and for a sliding window, which GPTBigCode has not.
    """
    if model.kv_heads not in (1, model.heads):
        raise CheckpointError(
            f"GPTBigCode has 1 or {model.heads} key-value heads, this model {model.kv_heads}; it cannot be exported"
        )
    if model.window is not None:
        raise CheckpointError(f"GPTBigCode has no sliding window, this model one of {model.window}; cannot be exported")
    yield "transformer.wte.weight", read("embedding.tokens.weight")
    yield "transformer.wpe.weight", read("embedding.positions.weight")
    for layer in range(model.layers):
        for part in ("weight", "bias"):
            yield f"transformer.h.{layer}.attn.c_attn.{part}", _fused_attention(model, read, layer, part)
            for hub, own in _PER_LAYER.items():
                yield f"transformer.h.{layer}.{hub}.{part}", read(f"layers.{layer}.{own}.{part}")
    for part in ("weight", "bias"):
        yield f"transformer.ln_f.{part}", read(f"final_norm.{part}")
    if not model.tied:
        yield "lm_head.weight", read("head.weight")


def _fused_attention(model: ModelConfig, read: ReadTensor, layer: int, part: str) -> Tensor:
    query = read(f"layers.{layer}.attention.query.{part}")
    key, value = read(f"layers.{layer}.attention.key_value.{part}")
    if model.kv_heads == 1:
        return torch.cat([query, key, value])
    heads = [tensor.unflatten(0, (model.heads, model.head_width)) for tensor in (query, key, value)]
    return torch.cat(heads, dim=1).flatten(0, 1)


def hub_config(model: ModelConfig, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json of the exported model.

    The activation is the tanh approximation that the model was trained with, which bigcode/starcoder's own file
    misnames as `gelu`. Old and new spellings of a key are both written where versions of transformers differ.
    """
    return {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
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
