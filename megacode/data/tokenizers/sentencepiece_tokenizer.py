"""SentencePiece models, unigram and BPE, held to the same promise as byte-level BPE: every text survives byte for byte.

A model may rewrite text (normalization, a dummy prefix, collapsed white space); one that does is refused by name. Two
things no model can do are done here: U+2581, which SentencePiece takes for a space, goes in as three byte pieces, and
text that is spelled like a special token is cut after its first character, so that the model doesn't see the token.
SentencePiece: arXiv 1808.06226; byte fallback as in Llama.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import sentencepiece

from megacode.data.atomic import replacing
from megacode.data.errors import DataError
from megacode.data.tokenizers.sentencepiece_model import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    ModelForm,
    Piece,
    read_form,
)
from megacode.data.tokenizers.sentinels import SENTINELS, missing_sentinels

MODEL_FILE = "tokenizer.model"
SPACE_MARK = "\u2581"
KINDS = MappingProxyType({"unigram": "unigram", "bpe": "bpe"})
UNKNOWN_TEXT = "<unk>"
SENTENCE_CHARACTERS = 4000
THREADS = 16  # part of the result: the trainer adds up each thread's counts by themselves
COVERAGE = 0.9995  # of characters that get a piece; the rest go by bytes


class SentencePieceEngine:
    """A SentencePiece model: `pieces` every id's bytes, `special` text to id, `fingerprint` sha256 of the file."""

    splits_words = False

    def __init__(self, model: bytes) -> None:
        """Wrap the bytes of a tokenizer.model. Raises DataError naming what keeps text from surviving."""
        try:
            form = read_form(model)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (ValueError, RuntimeError) as error:
            raise DataError(f"not a SentencePiece model ({error})") from error
        self.special = {piece.text: token for token, piece in enumerate(form.pieces) if _is_special(piece)}
        problems = _problems(form, self.special)
        if problems:
            raise DataError("this tokenizer cannot be used: " + "; ".join(problems))
        self.pieces = [_bytes_of(piece) for piece in form.pieces]
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._model = model
        by_text = {piece.text: token for token, piece in enumerate(form.pieces)}
        self._mark = [by_text[f"<0x{byte:02X}>"] for byte in SPACE_MARK.encode()]
        seen = [piece.text for piece in form.pieces if piece.kind == USER_DEFINED and _is_special(piece)]
        spelled = [f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in seen if len(text) > 1]
        self._cuts = re.compile("|".join([f"({SPACE_MARK})", *spelled]))

    @classmethod
    def read(cls, file: Path) -> SentencePieceEngine:
        """Read a tokenizer.model. Raises DataError when it is none, or unfit."""
        try:
            return cls(file.read_bytes())
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def __reduce__(self) -> tuple[type[SentencePieceEngine], tuple[bytes]]:
        return type(self), (self._model,)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        parts = self._parts(text)
        return self._joined(parts, iter([self._processor.encode(part) for part in parts if part != SPACE_MARK]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; the library spreads them over the machine's cores."""
        rows = [self._parts(text) for text in texts]
        plain = [part for row in rows for part in row if part != SPACE_MARK]
        encoded = iter(self._processor.encode(plain, num_threads=os.cpu_count() or 1) if plain else [])
        return [self._joined(row, encoded) for row in rows]

    def _parts(self, text: str) -> list[str]:
        """Return what the model may see at once: the text between U+2581s, and those, cut inside special tokens."""
        if self._cuts.search(text) is None:
            return [text] if text else []
        return [part for part in self._cuts.split(text) if part]

    def _joined(self, parts: list[str], encoded: Iterator[list[int]]) -> list[int]:
        """Return the ids of a text's parts; `encoded`: those of its parts that are not U+2581, in order."""
        if len(parts) == 1 and parts[0] != SPACE_MARK:
            return next(encoded)
        ids: list[int] = []
        for part in parts:
            ids += self._mark if part == SPACE_MARK else next(encoded)
        return ids

    def save(self, folder: Path) -> None:
        """Write tokenizer.model."""
        with replacing(folder / MODEL_FILE) as file:
            file.write(self._model)


def train_model(texts: Iterable[str], vocab_size: int, family: str, kind: str) -> SentencePieceEngine:
    """Train a "unigram" or "bpe" model: ids are the family's sentinels, <unk>, the 256 bytes, then pieces.

    Digits are split one by one and nothing is normalized. The library holds all texts in memory: give it a sample
    (train_byte_level streams). Same texts, same model. Raises DataError where it cannot be trained.
    """
    if kind not in KINDS:
        raise DataError(f"a SentencePiece model must be one of {', '.join(KINDS)}; found {kind!r}")
    sentinels = SENTINELS[family]
    least = len(sentinels) + 1 + 256
    if vocab_size <= least:
        raise DataError(f"vocab_size must be above {least} ({family}'s sentinels, <unk>, bytes); found {vocab_size}")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=KINDS[kind],
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            control_symbols=list(sentinels),
            unk_id=len(sentinels),
            unk_piece=UNKNOWN_TEXT,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            byte_fallback=True,
            split_digits=True,
            character_coverage=COVERAGE,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * SENTENCE_CHARACTERS,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"SentencePiece cannot train {vocab_size} pieces on these texts ({error})") from error
    return SentencePieceEngine(model.getvalue())


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts in stretches that the trainer does not skip, each of several whole lines where they are short.

    The trainer passes over stretches with a NUL; its newlines inside a stretch stay.
    """
    for text in texts:
        held = ""
        for line in text.replace("\0", "").splitlines(keepends=True):
            if held and len(held) + len(line) > SENTENCE_CHARACTERS:
                yield held
                held = ""
            held += line
            while len(held) > SENTENCE_CHARACTERS:
                yield held[:SENTENCE_CHARACTERS]
                held = held[SENTENCE_CHARACTERS:]
        if held:
            yield held


def _is_special(piece: Piece) -> bool:
    """Return whether a piece stands for no text: control, unknown, or a sentinel that was made user-defined."""
    known = any(piece.text in names for names in SENTINELS.values())
    return piece.kind in (CONTROL, UNKNOWN) or (piece.kind == USER_DEFINED and known)


def _bytes_of(piece: Piece) -> bytes:
    """Return the bytes that a piece stands for."""
    if piece.kind == BYTE:
        return bytes([int(piece.text[3:5], 16)])
    return (piece.text if _is_special(piece) else piece.text.replace(SPACE_MARK, " ")).encode()


def _problems(form: ModelForm, special: dict[str, int]) -> list[str]:
    """Return what keeps a model from giving every text back."""
    problems = []
    if form.rewrites:
        problems.append("normalization must be identity (text must survive unchanged), found rules that rewrite text")
    if form.adds_dummy_prefix:
        problems.append("add_dummy_prefix must be false, found true: every text would begin with a space")
    if form.removes_extra_whitespaces:
        problems.append("remove_extra_whitespaces must be false, found true: indentation would be lost")
    if not form.escapes_whitespaces:
        problems.append("escape_whitespaces must be true, found false")
    bytes_found = {piece.text for piece in form.pieces if piece.kind == BYTE}
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in bytes_found]
    if not form.byte_fallback or missing:
        problems.append(
            f"byte_fallback must be true with all 256 byte pieces, found {str(form.byte_fallback).lower()} with "
            f"{256 - len(missing)}: unknown characters would be lost"
        )
    return problems + missing_sentinels(special)
