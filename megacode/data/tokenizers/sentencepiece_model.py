"""What a SentencePiece model file says about itself, read off protobuf's wire format.

The Python package names neither a piece's kind nor the rules of normalization, and those decide whether text survives.
Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_KIND = 1, 3
_BYTE_FALLBACK = 35
_RULES, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPE, _OWN_RULES = 2, 3, 4, 5, 6


class Piece(NamedTuple):
    """A token as the model writes it, and its kind (NORMAL .. BYTE)."""

    text: str
    kind: int


@dataclass(frozen=True)
class ModelForm:
    """Pieces by id, and what the model does to text before it splits it."""

    pieces: tuple[Piece, ...]
    byte_fallback: bool
    rewrites: bool
    adds_dummy_prefix: bool
    removes_extra_whitespaces: bool
    escapes_whitespaces: bool


def read_form(raw: bytes) -> ModelForm:
    """Return what the bytes of a tokenizer.model say. Raises ValueError when they are no such model."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(raw):
        if number in (_PIECES, _TRAINER, _NORMALIZER) and not isinstance(value, bytes):
            raise ValueError(f"field {number} must be a message")
        if number == _PIECES:
            piece = dict(_fields(bytes(value)))
            text, kind = piece.get(_PIECE_TEXT, b""), piece.get(_PIECE_KIND, NORMAL)
            if not isinstance(text, bytes) or not isinstance(kind, int):
                raise ValueError(f"piece {len(pieces)} has fields of other types")
            pieces.append(Piece(text.decode("utf-8"), kind))
        elif number == _TRAINER:
            trainer = dict(_fields(bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(bytes(value)))
    if not pieces:
        raise ValueError("it has no pieces")
    return ModelForm(
        pieces=tuple(pieces),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        rewrites=bool(normalizer.get(_RULES) or normalizer.get(_OWN_RULES)),
        adds_dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        removes_extra_whitespaces=bool(normalizer.get(_EXTRA_SPACES, 1)),
        escapes_whitespaces=bool(normalizer.get(_ESCAPE, 1)),
    )


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one message; fixed-width values as bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if wire == _COUNTED:
            count, at = _varint(raw, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            count = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + count > len(raw):
            raise ValueError(f"it ends inside field {number}")
        yield number, raw[at : at + count]
        at += count


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the number at byte `at` and where the next field begins."""
    value = shift = 0
    while at < len(raw) and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number is cut short at byte {at}")
