"""Hugging Face's GPTBigCode or Starcoder2 in a plain training loop."""

from __future__ import annotations

import sys
from typing import Any

from loop import check, train
from torch import nn
from worker import Serve, Setup, work


def run(setup: Setup, serve: Serve) -> None:
    """Build the model of the configuration's structure, and serve steps."""
    check(setup)
    model = _starcoder2(setup) if setup.config["model"]["positions"] == "rotary" else _big_code(setup)
    train(setup, model, lambda net, tokens: net(input_ids=tokens, use_cache=False).logits, serve)


def _big_code(setup: Setup) -> nn.Module:
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    model = setup.config["model"]
    setup.refuse_unless(model["kv_heads"] in (1, model["heads"]), "GPTBigCode has 1 key-value head, or one per head")
    setup.refuse_unless(model["window"] is None, "GPTBigCode has no window")
    config = GPTBigCodeConfig(
        n_layer=model["layers"],
        n_embd=model["hidden"],
        n_head=model["heads"],
        n_inner=model["ffn"],
        n_positions=model["context"],
        multi_query=model["kv_heads"] == 1,
        activation_function="gelu_pytorch_tanh",
        layer_norm_epsilon=model["norm_eps"],
        **_without_dropout("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        **_common(model),
    )
    return GPTBigCodeForCausalLM(config)


def _starcoder2(setup: Setup) -> nn.Module:
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    model = setup.config["model"]
    config = Starcoder2Config(
        num_hidden_layers=model["layers"],
        hidden_size=model["hidden"],
        num_attention_heads=model["heads"],
        num_key_value_heads=model["kv_heads"],
        intermediate_size=model["ffn"],
        max_position_embeddings=max(model["context"], setup.config["data"]["sequence"]),
        rope_theta=model["rope_theta"],  # transformers up to 4; from 5 on, the next line
        rope_parameters={"rope_type": "default", "rope_theta": model["rope_theta"]},
        sliding_window=model["window"],
        norm_epsilon=model["norm_eps"],
        **_without_dropout("residual_dropout", "embedding_dropout", "attention_dropout"),
        **_common(model),
    )
    return Starcoder2ForCausalLM(config)


def _common(model: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": model["vocab"],
        "initializer_range": model["init_std"],
        "tie_word_embeddings": model["tied"],
        "attn_implementation": "sdpa",
    }


def _without_dropout(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 0.0)


if __name__ == "__main__":
    work(run, sys.argv[1])
