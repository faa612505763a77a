"""Text to token ids and back, byte for byte: one interface for byte-level BPE and SentencePiece models.

What lies on disk decides which: `tokenizer.json` or `tokenizer.model`. Special tokens are placed by id only; text that
is spelled like one stays text. A vocabulary may lack bytes (the released StarCoder ones lack 14): a text with one of
them is refused, or kept with its loss where the caller says so, and never shortened in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer as Backend

from megacode.data.errors import DataError
from megacode.data.tokenizers.byte_level import TOKENIZER_FILE, ByteLevelEngine, train_byte_level
from megacode.data.tokenizers.sentencepiece_tokenizer import MODEL_FILE, SentencePieceEngine, train_model
from megacode.data.tokenizers.sentinels import END_OF_TEXT, FIM_MIDDLE, FIM_PAD, FIM_PREFIX, FIM_SUFFIX, SENTINELS
from megacode.data.tokenizers.token_table import TokenTable

LETTERS = "ﬁ Å é e\u0301 ① 日本\u3000語 \u2581\u2581 \ufeff🙂 \U000e0041 "  # what normalizations change
PROBE = "".join(map(chr, range(0x250))) + " x  y\t\tz\r\n\n    " + LETTERS
SHOWN = 40


class Engine(Protocol):
    """What a library's tokenizer has to offer; ids may lose bytes that the vocabulary lacks."""

    pieces: list[bytes]
    special: dict[str, int]
    fingerprint: str
    splits_words: bool

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def save(self, folder: Path) -> None: ...


class Tokenizer:
    """A vocabulary and how text is split into it.

    `vocab_size` tokens (highest id + 1), `fingerprint` of the tokenizer as it is on disk, the five ids that FIM and
    packing need, `special` (text to id) and `special_ids`, `table` with every token's bytes, `missing_bytes`: the bytes
    that it has no token for, in order, and `engine`, which does the work.
    """

    def __init__(self, engine: Engine | Backend) -> None:
        """Wrap an engine, or a byte-level BPE of the tokenizers library. Raises DataError naming what it lacks."""
        self.engine: Engine = ByteLevelEngine(engine) if isinstance(engine, Backend) else engine
        self.special: Mapping[str, int] = dict(self.engine.special)
        self.fingerprint = self.engine.fingerprint
        self.table = TokenTable(self.engine.pieces, self.special.values(), self.engine.splits_words)
        self.vocab_size = int(self.table.lengths.size)
        self.special_ids = frozenset(self.special.values())
        self.missing_bytes = bytes(byte for byte in range(256) if self.table.single[byte] < 0)
        self.end_of_text = self.special[END_OF_TEXT]
        self.fim_prefix = self.special[FIM_PREFIX]
        self.fim_middle = self.special[FIM_MIDDLE]
        self.fim_suffix = self.special[FIM_SUFFIX]
        self.fim_pad = self.special[FIM_PAD]
        self._check_survival()

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a tokenizer.json, a tokenizer.model, or a folder with one. Raises DataError when missing or unfit."""
        file = find_tokenizer(path)
        read = SentencePieceEngine.read if file.suffix == Path(MODEL_FILE).suffix else ByteLevelEngine.read
        engine: Engine = read(file)
        try:
            return cls(engine)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def save(self, folder: Path | str) -> None:
        """Write what `load` reads. Raises DataError when the folder has a tokenizer of the other kind."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        other = MODEL_FILE if isinstance(self.engine, ByteLevelEngine) else TOKENIZER_FILE
        if (folder / other).exists():
            raise DataError(f"{folder}: has a {other} already; delete it or choose another folder")
        self.engine.save(folder)

    def loses(self, text: str) -> bool:
        """Return whether `text` would not come back: bytes without a token, or a lone surrogate, which is no text."""
        try:
            raw = text.encode() if self.missing_bytes or not text.isascii() else b""
        except UnicodeEncodeError:
            return True
        return bool(self.missing_bytes) and len(raw.translate(None, self.missing_bytes)) != len(raw)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; sentinels spelled out in it are ordinary text. Raises DataError for a loss."""
        self._refuse_loss(text)
        return self.engine.encode(text)

    def encode_batch(self, texts: Sequence[str], keep_lossy: bool = False) -> list[list[int]]:
        """Return the ids of each text; the library spreads the texts over its threads.

        Raises DataError for a text that would not come back; `keep_lossy` takes it, less what is lost.
        """
        if not keep_lossy:
            for text in texts:
                self._refuse_loss(text)
            return self.engine.encode_batch(texts)
        return self.engine.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])

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

    def _refuse_loss(self, text: str) -> None:
        """Raise DataError naming what of `text` would be lost."""
        if not self.loses(text):
            return
        lost = next(letter for letter in text if self.loses(letter))
        raise DataError(
            f"this vocabulary cannot hold {lost!a} in {text[:SHOWN]!a}: it has no token for some of its bytes; "
            "drop such documents, or train a tokenizer with all 256 bytes"
        )

    def _check_survival(self) -> None:
        """Raise DataError unless a text of every troublesome sort comes back, less the bytes that have no token."""
        names = "".join(self.special)
        probe = "".join(letter for letter in PROBE + names + PROBE[::-1] if not self.loses(letter))
        found = self.decode_bytes(self.engine.encode(probe)).decode("utf-8", errors="replace")
        if found == probe:
            return
        at = next((n for n, pair in enumerate(zip(found, probe, strict=False)) if pair[0] != pair[1]), len(found))
        raise DataError(
            f"this tokenizer cannot be used: text does not come back from it unchanged "
            f"({probe[at : at + 8]!a} becomes {found[at : at + 8]!a})"
        )


def find_tokenizer(path: Path | str) -> Path:
    """Return the tokenizer.json or tokenizer.model at `path`, that file or a folder with it.

    Raises DataError when there is none, or both.
    """
    path = Path(path)
    files = [path / TOKENIZER_FILE, path / MODEL_FILE] if path.is_dir() else [path]
    found = [file for file in files if file.is_file()]
    if not found:
        raise DataError(f"{files[0]}: no tokenizer here; train one, or import a {TOKENIZER_FILE} or {MODEL_FILE}")
    if len(found) > 1:
        raise DataError(f"{path}: has both {TOKENIZER_FILE} and {MODEL_FILE}; name the file that you mean")
    return found[0]


def train_bpe(texts: Iterable[str], vocab_size: int, family: str) -> Tokenizer:
    """Train byte-level BPE on a stream; ids are the family's sentinels, the 256 bytes, then merges.

    The texts are read once and not kept: memory is that of the distinct words. Same texts, same tokenizer. The result
    has fewer than `vocab_size` tokens when the texts run out of pairs to merge.
    Raises DataError for an unknown `family` or a `vocab_size` below sentinels + 256.
    """
    _check_family(family)
    return Tokenizer(train_byte_level(texts, vocab_size, family))


def train_sentencepiece(texts: Iterable[str], vocab_size: int, family: str, kind: str = "unigram") -> Tokenizer:
    """Train a SentencePiece model, "unigram" or "bpe"; ids are the family's sentinels, <unk>, the 256 bytes, pieces.

    Holds all texts in memory. Same texts, same tokenizer; fewer than `vocab_size` tokens when the texts give no more.
    Raises DataError for an unknown `family` or `kind`, and for a `vocab_size` that cannot be trained.
    """
    _check_family(family)
    return Tokenizer(train_model(texts, vocab_size, family, kind))


def import_tokenizer(source: Path | str, folder: Path | str) -> Tokenizer:
    """Check a ready tokenizer.json or tokenizer.model (or a folder with one), write it to `folder`, and return it.

    Raises DataError naming what is missing or what would change text.
    """
    tokenizer = Tokenizer.load(source)
    tokenizer.save(folder)
    return tokenizer


def _check_family(family: str) -> None:
    """Raise DataError for a family whose sentinels are not known."""
    if family not in SENTINELS:
        raise DataError(f"tokenizer family must be one of {', '.join(SENTINELS)}; found {family!r}")
