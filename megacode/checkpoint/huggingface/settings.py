"""Reads a config.json key by key and keeps count: what could not be taken over, what is worth saying, what is unknown.

Three sorts of keys: those that a family turns into the model section, those that must have one value because megacode
computes nothing else, and those that change nothing here. A key of none of these is told, never passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megacode.config.problem import Problem

# Keys of transformers' base configuration and of BigCode's files that do not change the logits of a forward pass.
FREE = (
    *("architectures", "model_type", "_name_or_path", "transformers_version", "_commit_hash", "auto_map"),
    *("dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions", "output_hidden_states"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "tokenizer_class", "prefix", "torchscript"),
    *("chunk_size_feed_forward", "is_decoder", "is_encoder_decoder", "tie_encoder_decoder", "use_bfloat16"),
    *("cross_attention_hidden_size", "task_specific_params", "tf_legacy_loss", "suppress_tokens", "bad_words_ids"),
    *("begin_suppress_tokens", "typical_p", "max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "inference_runner", "max_batch_size"),
    *("max_sequence_length", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    *("num_key_value_heads", "attn_implementation"),
)
_MOST = 1 << 24
# All of these compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")


class Settings:
    """A config.json being read; `problems` and `notes` grow as it is."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table
        self._known: set[str] = set()
        self._own_to_hub: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def problem(self, key: str, value: str, rule: str, hint: str = "") -> None:
        """Note something that cannot be taken over."""
        self.problems.append(Problem(key, value, rule, hint))

    def note(self, text: str) -> None:
        """Note something that can, but should be known."""
        self.notes.append(text)

    def hub_key(self, own: str) -> str:
        """The key of config.json that a field of the model section was read from."""
        return self._own_to_hub.get(own, own)

    def integer(self, key: str, own: str) -> int:
        """A whole number that must be there and positive; 0 where it isn't, which is a problem noted."""
        value = self._get(key, own)
        if type(value) is int and 0 < value <= _MOST:
            return value
        if value is None:
            self.problem(key, "", "is missing")
        elif type(value) is int and value > _MOST:
            self.problem(key, repr(value), "is more than any model has")
        else:
            self.problem(key, repr(value), "must be a whole number above 0")
        return 0

    def optional_integer(self, key: str, own: str) -> int | None:
        """A positive whole number, or None where it is null or absent."""
        return None if self._get(key, own) is None else self.integer(key, own)

    def number(self, key: str, own: str, default: float | None) -> float | None:
        """A number, `default` where it is absent or null."""
        value = self._get(key, own)
        if value is None:
            return default
        if type(value) not in (int, float):
            self.problem(key, repr(value), "must be a number")
            return default
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false, `default` where it is absent."""
        value = self._get(key, key)
        if value is not None and type(value) is not bool:
            self.problem(key, repr(value), "must be true or false")
        return value if type(value) is bool else default

    def table_of(self, key: str) -> dict[str, Any]:
        """A table, empty where it is absent or null."""
        value = self._get(key, key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, repr(value), "must be a table")
        return dict(value) if isinstance(value, dict) else {}

    def list_of(self, key: str) -> list[Any]:
        """A list, empty where it is absent or null."""
        value = self._get(key, key)
        if value is not None and not isinstance(value, list):
            self.problem(key, repr(value), "must be a list")
        return value if isinstance(value, list) else []

    def fixed(self, key: str, only: object, why: str) -> None:
        """A key that, where it is there, must be `only`."""
        value = self._get(key, key)
        if value is not None and (value != only or isinstance(value, bool) != isinstance(only, bool)):
            self.problem(key, repr(value), f"cannot be: in megacode {why}")

    def free(self, *keys: str) -> None:
        """Keys that may have any value: they change nothing that megacode computes."""
        self._known.update(keys)

    def activation(self, key: str, override: str | None) -> None:
        """Check that the activation is the tanh GELU, or that `override` says so against the file."""
        value = self._get(key, key)
        named = value if value is not None else TANH_GELU[0]
        if override is not None and override not in TANH_GELU:
            self.problem("--activation", override, f"must be {TANH_GELU[0]}: megacode computes no other activation")
        elif override is not None and named not in TANH_GELU:
            self.note(f"{key} is {named!r} in config.json, taken as {override} because --activation says so")
        elif named == "gelu":
            rule = "is the erf GELU by its name, and megacode computes the tanh approximation"
            hint = (
                "bigcode/starcoder and some models made from it say gelu though they were trained with tanh: "
                f"if this is one of them, add --activation {TANH_GELU[0]}; if not, the model cannot be imported"
            )
            self.problem(key, repr(named), rule, hint)
        elif named not in TANH_GELU:
            self.problem(key, repr(named), f"cannot be: megacode computes {TANH_GELU[0]} only")

    def given(self, **values: Any) -> dict[str, Any]:
        """Those of `values` that are not None."""
        return {name: value for name, value in values.items() if value is not None}

    def note_unknown(self) -> None:
        """Note every key that nobody asked for and that says something."""
        said = {key for key, value in self._table.items() if value not in (None, False, "", [], {})}
        if strange := said - self._known:
            self.note(f"keys of config.json that megacode does not know, passed over: {', '.join(sorted(strange))}")

    def _get(self, key: str, own: str) -> Any:
        self._known.add(key)
        self._own_to_hub[own] = key
        return self._table.get(key)
