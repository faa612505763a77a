"""The configurations of the released models are those of the examples that say how they were trained."""

from __future__ import annotations

import json
from pathlib import Path

from megacode.checkpoint.huggingface.model_section import read_model_section
from megacode.config import load_config
from megacode.plan.parameters import count_parameters

EXAMPLES = Path(__file__).parents[2] / "examples"

# The keys of bigcode/starcoder's config.json, the useless ones too.
STARCODER = json.loads("""{
  "activation_function": "gelu", "architectures": ["GPTBigCodeForCausalLM"], "attention_softmax_in_fp32": true,
  "attn_pdrop": 0.1, "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0, "inference_runner": 0,
  "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "max_batch_size": null, "max_sequence_length": null,
  "model_type": "gpt_bigcode", "multi_query": true, "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40,
  "n_positions": 8192, "pad_key_length": true, "pre_allocate_kv_cache": false, "resid_pdrop": 0.1,
  "scale_attention_softmax_in_fp32": true, "scale_attn_weights": true, "summary_activation": null,
  "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
  "torch_dtype": "float32", "transformers_version": "4.28.1", "use_cache": true, "validate_runner_input": true,
  "vocab_size": 49152
}""")
# And of bigcode/starcoder2-3b's.
STARCODER2_3B = json.loads("""{
  "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "residual_dropout": 0.1,
  "embedding_dropout": 0.1, "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh",
  "hidden_size": 3072, "initializer_range": 0.018042, "intermediate_size": 12288, "max_position_embeddings": 16384,
  "mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-05, "norm_type": "layer_norm",
  "num_attention_heads": 24, "num_hidden_layers": 30, "num_key_value_heads": 2, "rope_theta": 999999.4420358813,
  "sliding_window": 4096, "transformers_version": "4.37.0.dev0", "use_bias": true, "use_cache": true,
  "vocab_size": 49152
}""")


def test_starcoder() -> None:
    section = read_model_section(STARCODER, "config.json", "gelu_pytorch_tanh")
    base = load_config(EXAMPLES / "starcoder_15b.toml").model
    assert section.model == base.model_copy(update={"init_std": 0.02}), "0.02 is not what it was trained with"
    assert count_parameters(section.model).total == 15_517_456_384
    assert len(section.notes) == 1 and "gelu" in section.notes[0]


def test_starcoder2() -> None:
    section = read_model_section(STARCODER2_3B, "config.json")
    dropout = {"attention_dropout": 0.1, "hidden_dropout": 0.1, "embedding_dropout": 0.1}
    assert section.model == load_config(EXAMPLES / "starcoder2_3b_16k.toml").model.model_copy(update=dropout)
    assert section.notes == ()
