"""StarCoder2 as Hugging Face's Starcoder2ForCausalLM: the names and shapes of its weights, and its config.json.

It has any number of key-value heads, and rotary positions only.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from torch import Tensor

from megacode.checkpoint.huggingface.bigcode import ReadTensor
from megacode.config.schema import ModelConfig

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


def hub_tensors(model: ModelConfig, read: ReadTensor) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the Hugging Face model, one at a time; `read` gives a logical tensor by its megacode name."""
    yield "model.embed_tokens.weight", read("embedding.tokens.weight")
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
        yield "lm_head.weight", read("head.weight")


def hub_config(model: ModelConfig, end_of_text: int, dtype: str) -> dict[str, Any]:
    """config.json of the exported model.

    `sliding_window` counts the token itself, as `model.window` does. Old and new spellings of a key are both written
    where versions of transformers differ: the base of the rotary angles is `rope_theta` up to 4, in `rope_parameters`
    since 5.
    """
    return {
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
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
