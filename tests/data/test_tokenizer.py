"""The tokenizer: exact ids, lossless, sentinels only by id, and the same ids in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from megacode.data.errors import DataError
from megacode.data.sentinels import SENTINELS
from megacode.data.tokenizer import Tokenizer, import_tokenizer, train_bpe


def test_sentinels_are_the_families_own() -> None:
    assert [len(SENTINELS[family]) for family in ("starcoder", "starcoder2")] == [19, 38]
    assert SENTINELS["starcoder"][5] == "<filename>" and SENTINELS["starcoder"][18] == "<reponame>"
    assert SENTINELS["starcoder2"][5:7] == ("<repo_name>", "<file_sep>") and SENTINELS["starcoder2"][37] == "<PASSWORD>"


@pytest.mark.parametrize("family", ["starcoder", "starcoder2"])
def test_ids_are_sentinels_then_bytes_then_merges(family: str, sources: list[str]) -> None:
    tokenizer = train_bpe(sources[:2], 600, family)
    count = len(SENTINELS[family])
    assert [tokenizer.decode([token]) for token in range(count)] == list(SENTINELS[family])
    assert tokenizer.special_ids == frozenset(range(count))
    five = (tokenizer.end_of_text, tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix, tokenizer.fim_pad)
    assert five == (0, 1, 2, 3, 4)
    assert {tokenizer.token_bytes(token) for token in range(count, count + 256)} == {bytes([b]) for b in range(256)}
    assert tokenizer.vocab_size == 600


def test_training_is_deterministic(sources: list[str]) -> None:
    assert train_bpe(sources, 700, "starcoder").fingerprint == train_bpe(iter(sources), 700, "starcoder").fingerprint


def test_each_digit_is_a_token(tokenizer: Tokenizer) -> None:
    for token in range(38, tokenizer.vocab_size):
        text = tokenizer.token_bytes(token)
        assert len(text) == 1 or not any(chr(byte).isdigit() for byte in text)
    assert len(tokenizer.encode("2024")) == 4


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.encode_batch([text, text]) == [ids, ids]
    assert not tokenizer.special_ids.intersection(ids)


def test_every_code_point_survives(tokenizer: Tokenizer) -> None:
    text = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000, 7))))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentinels_in_source_code_are_text(tokenizer: Tokenizer) -> None:
    text = "x = '" + "".join(SENTINELS["starcoder2"]) + "'"
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0]):
        assert not tokenizer.special_ids.intersection(ids)
        assert tokenizer.decode(ids) == text


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tok")
    for place in (tmp_path / "tok", tmp_path / "tok" / "tokenizer.json"):
        again = Tokenizer.load(place)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode("def f(<fim_prefix>): 12") == tokenizer.encode("def f(<fim_prefix>): 12")


def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path, sources: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*sources, "naïve 日本語 🙂\r\n\t 1234", ""):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text
    assert theirs.convert_tokens_to_ids(list(SENTINELS["starcoder2"])) == list(range(38))
    assert len(theirs) == tokenizer.vocab_size
    assert theirs("<fim_prefix>a")["input_ids"][0] == tokenizer.fim_prefix


def test_import(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "from")
    assert import_tokenizer(tmp_path / "from" / "tokenizer.json", tmp_path / "to").fingerprint == tokenizer.fingerprint
    assert Tokenizer.load(tmp_path / "to").fingerprint == tokenizer.fingerprint


def test_import_names_what_is_missing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    form = json.loads((tmp_path / "tokenizer.json").read_text())
    form["added_tokens"] = [token for token in form["added_tokens"] if token["content"] != "<fim_middle>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(form))
    with pytest.raises(DataError, match=r"special tokens missing: <fim_middle>;"):
        import_tokenizer(tmp_path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_import_refuses_what_is_not_byte_level(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"model must be BPE, found WordLevel; pre_tokenizer must be byte-level"):
        import_tokenizer(tmp_path, tmp_path / "to")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")


def test_wrong_calls(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"at least 294 for starcoder2 \(38 sentinels \+ 256 bytes\); found 293"):
        train_bpe(["a"], 293, "starcoder2")
    with pytest.raises(DataError, match=r"one of starcoder, starcoder2; found 'gpt'"):
        train_bpe(["a"], 1000, "gpt")
    with pytest.raises(DataError, match=r"must be in \[0, 1500\); found 1500"):
        tokenizer.decode([1500])
