"""Byte-level BPE of the `tokenizers` library: what is checked of a tokenizer.json, and how one is trained.

Split as StarCoder's: every digit alone, then GPT-2's regular expression on bytes (arXiv 2305.06161). The text
`<fim_prefix>` inside a source file is text: only the engine places special tokens, by id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from megacode.data.atomic import write_text
from megacode.data.errors import DataError
from megacode.data.tokenizers.sentinels import END_OF_TEXT, SENTINELS, missing_sentinels
from megacode.data.tokenizers.token_table import byte_level_pieces

TOKENIZER_FILE = "tokenizer.json"
ALPHABET = 256


class ByteLevelEngine:
    """A byte-level BPE: `pieces` every id's bytes, `special` text to id, `fingerprint` sha256 of its JSON form.

    `splits_words`: the text is split by GPT-2's pattern and by digits, and by nothing else.
    """

    def __init__(self, backend: Tokenizer) -> None:
        """Wrap the library's tokenizer. Raises DataError naming what keeps it from being byte-level BPE."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        form = json.loads(backend.to_str())
        problems = _problems(form)
        if problems:
            raise DataError("this tokenizer cannot be used: " + "; ".join(problems))
        self.backend = backend
        self.special = {token["content"]: int(token["id"]) for token in form["added_tokens"] if token["special"]}
        self.fingerprint = hashlib.sha256(json.dumps(form, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
        steps = _steps(form["pre_tokenizer"])
        known = all(step["type"] in ("Digits", "ByteLevel") for step in steps)
        levels = [step for step in steps if step["type"] == "ByteLevel"]
        self.splits_words = known and all(step.get("use_regex", True) for step in levels)
        try:
            self.pieces = byte_level_pieces(backend.get_vocab(with_added_tokens=True), self.special)
        except KeyError as error:
            raise DataError(
                f"this tokenizer cannot be used: a token has {error}, which is no byte-level symbol"
            ) from error

    @classmethod
    def read(cls, file: Path) -> ByteLevelEngine:
        """Read a tokenizer.json. Raises DataError when it is none, or unfit."""
        try:
            backend = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for any unreadable file
            raise DataError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error
        try:
            return cls(backend)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def __reduce__(self) -> tuple[Callable[[str], ByteLevelEngine], tuple[str]]:
        """Another process builds it anew: the library's own form forgets that sentinels in text are text."""
        return _from_json, (self.backend.to_str(),)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; bytes that the vocabulary lacks are lost."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; the library spreads the texts over its threads, without Python's lock."""
        return [row.ids for row in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers 4.57 and 5 both load."""
        write_text(folder / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        names = sorted(self.special, key=lambda name: self.special[name])
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


def _from_json(form: str) -> ByteLevelEngine:
    """Return the engine of a tokenizer.json's text."""
    return ByteLevelEngine(Tokenizer.from_str(form))


def train_byte_level(texts: Iterable[str], vocab_size: int, family: str) -> ByteLevelEngine:
    """Train on a stream: ids are the family's sentinels, the 256 bytes, then merges. Same texts, same tokenizer.

    The library counts words on all cores as the texts go by and keeps none of them: it holds the distinct words with
    their counts (and, while merging, the pairs of symbols in them). Raises DataError for too low a `vocab_size`.
    """
    least = len(SENTINELS[family]) + ALPHABET
    if vocab_size < least:
        raise DataError(
            f"vocab_size must be at least {least} for {family} ({least - ALPHABET} sentinels + {ALPHABET} bytes); "
            f"found {vocab_size}"
        )
    backend = Tokenizer(models.BPE())
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
    return ByteLevelEngine(backend)


def _problems(form: dict[str, Any]) -> list[str]:
    """Return what keeps a tokenizer.json from being byte-level BPE with the sentinels."""
    model, problems = form["model"], []
    if model.get("type") != "BPE":
        problems.append(f"model must be BPE, found {model.get('type')}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            problems.append(f"model must have no {name}, found {model[name]!r}")
    if form.get("normalizer") is not None:
        problems.append(
            f"normalizer must be none (text must survive unchanged), found {form['normalizer'].get('type')}"
        )
    levels = [step for step in _steps(form.get("pre_tokenizer")) if step.get("type") == "ByteLevel"]
    if not levels:
        problems.append("pre_tokenizer must be byte-level, found none of type ByteLevel")
    elif any(step.get("add_prefix_space") for step in levels):
        problems.append("pre_tokenizer must not add a prefix space, found add_prefix_space = true")
    problems += missing_sentinels({token["content"] for token in form["added_tokens"] if token["special"]})
    ordinary = [token["content"] for token in form["added_tokens"] if not token["special"]]
    if ordinary:
        problems.append(f"added tokens must be special, found ordinary ones: {', '.join(ordinary[:5])}")
    return problems


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer, a Sequence flattened."""
    if step is None:
        return []
    return [one for inner in step["pretokenizers"] for one in _steps(inner)] if step["type"] == "Sequence" else [step]
