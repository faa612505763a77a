"""Byte-level BPE with the StarCoder sentinels: train it, load it, save it, encode, decode to exact bytes.

Split as StarCoder's: every digit alone, then GPT-2's regular expression on bytes (arXiv 2305.06161). The whole
byte alphabet is in the vocabulary, so any text survives encode and decode unchanged. The text `<fim_prefix>` inside a
source file is text: only the engine places special tokens, by id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.sentinels import END_OF_TEXT, FIM_MIDDLE, FIM_PAD, FIM_PREFIX, FIM_SUFFIX, REQUIRED, SENTINELS
from megacode.data.token_table import TokenTable

TOKENIZER_FILE = "tokenizer.json"
ALPHABET = 256


class Tokenizer:
    """Text to token ids and back, byte for byte.

    `vocab_size` tokens (highest id + 1), `fingerprint` sha256 of the canonical JSON form, the five ids that FIM and
    packing need, `special_ids`, and `table` with every token's bytes.
    """

    def __init__(self, backend: Backend) -> None:
        """Wrap a byte-level BPE. Raises DataError naming what `backend` lacks."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        form = json.loads(backend.to_str())
        problems = _problems(form)
        if problems:
            raise DataError("this tokenizer cannot be used: " + "; ".join(problems))
        special = {token["content"]: int(token["id"]) for token in form["added_tokens"] if token["special"]}
        self._backend = backend
        self.fingerprint = hashlib.sha256(json.dumps(form, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
        try:
            self.table = TokenTable(backend.get_vocab(with_added_tokens=True), special)
        except KeyError as error:
            raise DataError(
                f"this tokenizer cannot be used: a token has {error}, which is no byte-level symbol"
            ) from error
        self.vocab_size = int(self.table.lengths.size)
        self.special_ids = frozenset(special.values())
        self.end_of_text = special[END_OF_TEXT]
        self.fim_prefix = special[FIM_PREFIX]
        self.fim_middle = special[FIM_MIDDLE]
        self.fim_suffix = special[FIM_SUFFIX]
        self.fim_pad = special[FIM_PAD]

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read `path`, a tokenizer.json or a folder with one. Raises DataError when it is missing or unfit."""
        file = Path(path) / TOKENIZER_FILE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise DataError(f"{file}: no tokenizer here; train one, or import a tokenizer.json")
        try:
            backend = Backend.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for any unreadable file
            raise DataError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error
        try:
            return cls(backend)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers 4.57 and 5 both load."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TOKENIZER_FILE, self._backend.to_str(pretty=True))
        names = [self._backend.id_to_token(token) for token in sorted(self.special_ids)]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "additional_special_tokens": [name for name in names if name != END_OF_TEXT],
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; sentinels spelled out in it are ordinary text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; the library spreads the texts over its threads."""
        return [row.ids for row in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, special tokens spelled out, broken UTF-8 as U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes of `ids`, special tokens spelled out."""
        return b"".join(self.token_bytes(token) for token in ids)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token. Raises DataError when the vocabulary has no such id."""
        if not 0 <= token < self.vocab_size:
            raise DataError(f"token id must be in [0, {self.vocab_size}); found {token}")
        return self.table.token_bytes(int(token))


def train_bpe(texts: Iterable[str], vocab_size: int, family: str) -> Tokenizer:
    """Train on `texts`; ids are the family's sentinels, the 256 bytes, then merges. Same texts, same tokenizer.

    The result has fewer than `vocab_size` tokens when the texts run out of pairs to merge.
    Raises DataError for an unknown `family` or a `vocab_size` below sentinels + 256.
    """
    if family not in SENTINELS:
        raise DataError(f"tokenizer family must be one of {', '.join(SENTINELS)}; found {family!r}")
    least = len(SENTINELS[family]) + ALPHABET
    if vocab_size < least:
        raise DataError(
            f"vocab_size must be at least {least} for {family} ({least - ALPHABET} sentinels + {ALPHABET} bytes); "
            f"found {vocab_size}"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SENTINELS[family]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def import_tokenizer(source: Path | str, folder: Path | str) -> Tokenizer:
    """Check a ready tokenizer.json (or a folder with one), write it to `folder`, and return it.

    Raises DataError naming what is missing: byte-level BPE, one of the sentinels.
    """
    tokenizer = Tokenizer.load(source)
    tokenizer.save(folder)
    return tokenizer


def _problems(form: dict[str, Any]) -> list[str]:
    """Return what keeps a tokenizer.json from being lossless byte-level BPE with the sentinels."""
    problems = []
    if form["model"].get("type") != "BPE":
        problems.append(f"model must be BPE, found {form['model'].get('type')}")
    if form.get("normalizer") is not None:
        problems.append(
            f"normalizer must be none (text must survive unchanged), found {form['normalizer'].get('type')}"
        )
    levels = [part for part in _parts(form.get("pre_tokenizer")) if part.get("type") == "ByteLevel"]
    if not levels:
        problems.append("pre_tokenizer must be byte-level, found none of type ByteLevel")
    elif any(part.get("add_prefix_space") for part in levels):
        problems.append("pre_tokenizer must not add a prefix space, found add_prefix_space = true")
    special = {token["content"] for token in form["added_tokens"] if token["special"]}
    missing = [text for text in REQUIRED if text not in special]
    if missing:
        problems.append(f"special tokens missing: {', '.join(missing)}; add them or choose a StarCoder tokenizer")
    ordinary = [token["content"] for token in form["added_tokens"] if not token["special"]]
    if ordinary:
        problems.append(f"added tokens must be special, found ordinary ones: {', '.join(ordinary[:5])}")
    return problems


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer, a Sequence flattened."""
    if step is None:
        return []
    return [part for inner in step["pretokenizers"] for part in _parts(inner)] if step["type"] == "Sequence" else [step]
