"""A vocabulary out of a GGUF file (llama.cpp's format): its metadata only, and a tokenizer.json rebuilt from it."""

from __future__ import annotations

import struct
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
CONTROL = 3


class _Cursor:
    """Reads a GGUF file's values one behind the other; little-endian."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._raw, self._at)
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        count = self.number("<Q")
        self._at += count
        return self._raw[self._at - count : self._at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(NUMBERS[kind])


def read_metadata(raw: bytes) -> dict[str, Any]:
    """The key-value pairs of a GGUF file of version 2 or 3."""
    assert raw[:4] == MAGIC, raw[:4]
    cursor = _Cursor(raw[4:])
    assert cursor.number("<I") in (2, 3)
    _tensors, pairs = cursor.number("<Q"), cursor.number("<Q")
    return {cursor.text(): cursor.value(cursor.number("<I")) for _ in range(pairs)}


def rebuild(raw: bytes, tokens: int) -> Tokenizer:
    """StarCoder's pipeline (digits, then GPT-2's pattern on bytes) around the file's first `tokens` tokens."""
    metadata = read_metadata(raw)
    texts = metadata["tokenizer.ggml.tokens"][:tokens]
    kinds = metadata["tokenizer.ggml.token_type"][:tokens]
    merges = [tuple(row.split(" ")) for row in metadata["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({text: token for token, text in enumerate(texts)}, merges))
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    special = [text for text, kind in zip(texts, kinds, strict=True) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return backend
