"""SentencePiece models keep the promises of byte-level BPE: exact ids, every byte, sentinels only by id."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.sentencepiece_model import USER_DEFINED, read_form
from megacode.data.tokenizers.sentencepiece_tokenizer import SentencePieceEngine, train_model
from megacode.data.tokenizers.sentinels import REQUIRED, SENTINELS
from megacode.data.tokenizers.tokenizer import (
    Tokenizer,
    find_tokenizer,
    import_tokenizer,
    train_bpe,
    train_sentencepiece,
)

TROUBLE = "  two  \t\ttabs\r\n\r\n    trailing \u2581\u2581x \0 \ufffd \ufeff ﬁ e\u0301 \u3000 \U00040000 🙂\n\n"


@pytest.fixture(scope="session")
def models(sources: list[str]) -> dict[str, Tokenizer]:
    """One model of each kind, 900 pieces, of real code."""
    return {kind: train_sentencepiece(sources[:5], 900, "starcoder2", kind) for kind in ("unigram", "bpe")}


def foreign(texts: Iterable[str], **changes: Any) -> bytes:
    """A model trained by the library directly: what ours asks for, with `changes`."""
    settings: dict[str, Any] = {
        "vocab_size": 500,
        "hard_vocab_limit": False,
        "control_symbols": list(REQUIRED),
        "unk_id": 40,
        "bos_id": -1,
        "eos_id": -1,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "max_sentence_length": 1 << 20,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **{**settings, **changes}
    )
    return model.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ids_are_sentinels_unknown_bytes_then_pieces(models: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = models[kind]
    assert [tokenizer.special[text] for text in SENTINELS["starcoder2"]] == list(range(38))
    assert tokenizer.token_bytes(38) == b"<unk>" and tokenizer.special_ids == frozenset(range(39))
    assert [tokenizer.token_bytes(token) for token in range(39, 295)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.end_of_text == 0 and tokenizer.fim_pad == 4
    assert 295 < tokenizer.vocab_size <= 900
    assert tokenizer.missing_bytes == b""


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_models_learn(models: dict[str, Tokenizer], kind: str, sources: list[str]) -> None:
    ids = models[kind].encode(sources[6])
    assert len(sources[6]) / len(ids) > 1.8
    assert models[kind].decode(ids) == sources[6]
    assert any(models[kind].token_bytes(token) == b" " * 4 for token in ids), "indentation has a piece"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_each_digit_is_a_token(models: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = models[kind]
    for token in range(295, tokenizer.vocab_size):
        text = tokenizer.token_bytes(token)
        assert len(text) == 1 or not any(chr(byte).isdigit() for byte in text)
    assert len(tokenizer.encode("2024")) == 4


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet=" \u2581\n\t<>|fim_prefix"), st.just(TROUBLE)), kind=st.booleans())
def test_any_text_survives(models: dict[str, Tokenizer], text: str, kind: bool) -> None:
    tokenizer = models["bpe" if kind else "unigram"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.encode_batch([text, "", text]) == [ids, [], ids]
    assert not tokenizer.special_ids.intersection(ids)


def test_user_defined_sentinels_in_source_code_are_text(sources: list[str]) -> None:
    """A user-defined symbol is found in text by the library itself, which ours must not let happen."""
    model = foreign(sources[:2], control_symbols=[], user_defined_symbols=[*REQUIRED, "====", "    "])
    assert sum(piece.kind == USER_DEFINED for piece in read_form(model).pieces) == 7
    tokenizer = Tokenizer(SentencePieceEngine(model))
    assert {tokenizer.decode([token]) for token in tokenizer.special_ids} == {*REQUIRED, "<unk>"}
    for text in ("<fim_prefix>", "a<fim_<fim_prefix>prefix><fim_middle><|endoftext|>b", "<<fim_pad>>====    \u2581"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and not tokenizer.special_ids.intersection(ids)
    assert len(tokenizer.encode("====")) == 1, "symbols that are no sentinels stay whole"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "normalization must be identity"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix must be false, found true"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces must be false, found true"),
        ({"byte_fallback": False}, "byte_fallback must be true with all 256 byte pieces, found false with 0"),
        ({"control_symbols": list(REQUIRED[:4])}, "special tokens missing: <fim_pad>"),
    ],
)
def test_what_does_not_give_text_back_is_refused_by_name(
    tmp_path: Path, sources: list[str], changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(foreign(sources[:1], **changes))
    with pytest.raises(DataError, match=rf"tokenizer\.model: this tokenizer cannot be used: {reason}"):
        import_tokenizer(tmp_path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_save_load_and_copy(models: dict[str, Tokenizer], tmp_path: Path, sources: list[str]) -> None:
    tokenizer = models["unigram"]
    tokenizer.save(tmp_path)
    assert find_tokenizer(tmp_path) == tmp_path / "tokenizer.model"
    places = (Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "tokenizer.model"))
    for again in (*places, copy.deepcopy(tokenizer)):
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode(sources[0] + TROUBLE) == tokenizer.encode(sources[0] + TROUBLE)
    assert import_tokenizer(tmp_path, tmp_path / "to").fingerprint == tokenizer.fingerprint


def test_one_folder_holds_one_tokenizer(models: dict[str, Tokenizer], tmp_path: Path, sources: list[str]) -> None:
    models["bpe"].save(tmp_path / "a")
    other = train_bpe(sources[:1], 400, "starcoder2")
    with pytest.raises(DataError, match=r"a: has a tokenizer\.model already; delete it or choose another folder"):
        other.save(tmp_path / "a")
    other.save(tmp_path / "b")
    (tmp_path / "b" / "tokenizer.model").write_bytes((tmp_path / "a" / "tokenizer.model").read_bytes())
    with pytest.raises(DataError, match=r"b: has both tokenizer\.json and tokenizer\.model"):
        Tokenizer.load(tmp_path / "b")


@pytest.mark.parametrize("damage", [b"", b"\x00", b"no model at all", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b"])
def test_damaged_models(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(damage)
    with pytest.raises(DataError, match=r"tokenizer\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)


def test_a_model_cut_short(models: dict[str, Tokenizer], tmp_path: Path) -> None:
    models["bpe"].save(tmp_path)
    raw = (tmp_path / "tokenizer.model").read_bytes()
    for length in (len(raw) // 3, len(raw) - 1):
        (tmp_path / "tokenizer.model").write_bytes(raw[:length])
        with pytest.raises(DataError, match=r"tokenizer\.model: "):
            Tokenizer.load(tmp_path)


def test_training_is_deterministic_and_refuses_the_impossible(sources: list[str]) -> None:
    same = {train_model(iter(sources[:2]), 500, "starcoder", "unigram").fingerprint for _ in range(2)}
    assert len(same) == 1
    with pytest.raises(DataError, match=r"must be one of unigram, bpe; found 'word'"):
        train_sentencepiece(sources, 500, "starcoder", "word")
    with pytest.raises(DataError, match=r"one of starcoder, starcoder2; found 'gpt'"):
        train_sentencepiece(sources, 500, "gpt")
    with pytest.raises(DataError, match=r"vocab_size must be above 276 \(starcoder's"):
        train_sentencepiece(sources, 276, "starcoder")
    with pytest.raises(DataError, match="SentencePiece cannot train 500 pieces on these texts"):
        train_sentencepiece([], 500, "starcoder")


def test_a_shard_is_made_with_it(models: dict[str, Tokenizer], tmp_path: Path) -> None:
    document = Document("1", "1.py", "python", "ab", parts=(("<repo_name>", "a"), ("<file_sep>", TROUBLE)))
    write_documents(tmp_path / "in.jsonl.zst", [document])
    report = tokenize(tmp_path / "in.jsonl.zst", models["unigram"], tmp_path / "shard")
    assert (report.documents, report.dropped) == (1, {})
