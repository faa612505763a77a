"""The tokenizer: exact ids, lossless, sentinels only by id, and the same ids in transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.tokenizers.sentinels import SENTINELS
from megacode.data.tokenizers.tokenizer import Tokenizer, import_tokenizer, train_bpe
from megacode.data.tokenizers.training import train_on_documents


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


def test_a_copy_in_another_process_is_the_same(tokenizer: Tokenizer) -> None:
    """What a data worker is sent: the library's own form forgets that sentinels in text are text."""
    text = "x = '<fim_prefix><|endoftext|>' 12"
    again = copy.deepcopy(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(text) == tokenizer.encode(text) and again.encode_batch([text]) == [tokenizer.encode(text)]


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


def changed(tokenizer: Tokenizer, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A saved tokenizer.json with something changed by hand."""
    tokenizer.save(folder)
    form = json.loads((folder / "tokenizer.json").read_text())
    change(form)
    (folder / "tokenizer.json").write_text(json.dumps(form))
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda form: form["model"].update(dropout=0.1), "model must have no dropout, found 0.1"),
        (lambda form: form["model"].update(end_of_word_suffix="</w>"), "must have no end_of_word_suffix, found '</w>'"),
        (lambda form: form.update(normalizer={"type": "NFC"}), "normalizer must be none .*, found NFC"),
        (
            lambda form: form["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "WhitespaceSplit"}),
            r"text does not come back from it unchanged \('\\t",
        ),
        (
            lambda form: form["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
            "must not add a prefix space",
        ),
    ],
)
def test_what_would_change_text_is_refused_by_name(
    tokenizer: Tokenizer, tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(DataError, match=rf"tokenizer\.json: this tokenizer cannot be used: .*{reason}"):
        Tokenizer.load(changed(tokenizer, tmp_path, change))


def test_a_vocabulary_without_some_bytes(sources: list[str]) -> None:
    """As the released ones: trained without the whole alphabet. What it cannot hold is refused, never shortened."""
    lossless = train_bpe(sources, 600, "starcoder")
    assert lossless.missing_bytes == b"" and not lossless.loses("\U00040000")
    form = json.loads(lossless.engine.backend.to_str())
    symbols = [symbol for symbol in form["model"]["vocab"] if len(symbol) == 1]
    lost = sorted(symbols, key=lambda symbol: lossless.table.token_bytes(form["model"]["vocab"][symbol]))[0xF1:]
    for symbol in lost:
        del form["model"]["vocab"][symbol]
    lossy = Tokenizer(Backend.from_str(json.dumps(form)))
    assert lossy.missing_bytes == bytes(range(0xF1, 0x100))
    assert (lossy.table.single[0xF1:] == -1).all() and (lossy.table.single[:0xF1] >= 0).all()
    assert lossy.encode("naïve 日本 🙂") and not lossy.loses("naïve 日本 🙂")
    for call in (lossy.encode, lambda text: lossy.encode_batch(["a", text])):
        with pytest.raises(DataError, match=r"this vocabulary cannot hold '\\U00040000' in 'a"):
            call("a\U00040000b")
    assert lossy.decode_bytes(lossy.encode_batch(["a\U00040000"], keep_lossy=True)[0]) == b"a\x80\x80\x80"


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.loses("a\ud800")
    with pytest.raises(DataError, match=r"this vocabulary cannot hold '\\ud800' in 'a"):
        tokenizer.encode("a\ud800")


def test_the_table_counts_characters(tokenizer: Tokenizer) -> None:
    table = tokenizer.table
    for token in range(tokenizer.vocab_size):
        starts = sum(byte & 0xC0 != 0x80 for byte in tokenizer.token_bytes(token))
        assert table.character_starts[token] == starts
    assert table.character_starts.dtype == np.int64 and table.character_starts.min() == 0
    text = "naïve 日本語 🙂🙂"
    assert table.character_starts[tokenizer.encode(text)].sum() == len(text)


SPACES = " \t\n\u3000\xa0\u2003"


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from(SPACES + "def return self._x 12'st"), st.characters(codec="utf-8"))
    ),
    before=st.one_of(st.text(), st.text(alphabet=SPACES), st.sampled_from(["1", "'", "a", "'s", " "])),
)
def test_a_token_that_starts_a_word_is_the_same_whatever_comes_before(
    tokenizer: Tokenizer, text: str, before: str
) -> None:
    ids = tokenizer.encode("x = self" + text + " return value")
    starts = np.flatnonzero(tokenizer.table.starts_word[ids]).tolist()
    assert starts, "the test has something to prove"
    for start in starts:
        rest = tokenizer.decode_bytes(ids[start:]).decode()
        assert tokenizer.encode(rest) == ids[start:]
        assert tokenizer.encode(before + rest)[len(ids[:start]) - len(ids) :] == ids[start:]


def test_which_tokens_start_a_word(tokenizer: Tokenizer, sources: list[str], tmp_path: Path) -> None:
    table = tokenizer.table
    words = {table.token_bytes(token) for token in np.flatnonzero(table.starts_word).tolist()}
    assert {b" self", b" =", b" return"} <= words and not words & {b" ", b"  ", b" \n", b"self", b"\n    "}
    assert all(word[:1] == b" " and not word[1:2].isspace() for word in words)
    other = Backend(models.BPE())
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[a-z]+ ?"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    other.decoder = decoders.ByteLevel()
    form = json.loads(tokenizer.engine.backend.to_str())
    form["pre_tokenizer"] = json.loads(other.to_str())["pre_tokenizer"]
    foreign = Tokenizer(Backend.from_str(json.dumps(form)))
    assert not foreign.table.starts_word.any(), "of another pattern nothing is known"


def test_training_reads_files_folders_and_the_texts_of_parts(tmp_path: Path, sources: list[str]) -> None:
    first = [Document(str(n), str(n), "python", text) for n, text in enumerate(sources[:2])]
    parts = (("<repo_name>", "zqzq" * 9), ("<file_sep>", sources[2]))
    write_documents(tmp_path / "in" / "00000.jsonl.zst", first)
    write_documents(tmp_path / "in" / "00001.jsonl.zst", [Document("p", "p", "python", "", parts=parts)])
    write_documents(tmp_path / "in" / "notes.txt", [])
    trained, reused = train_on_documents(tmp_path / "in", tmp_path / "tok", 600, "starcoder2")
    texts = [*sources[:2], "zqzq" * 9, sources[2]]
    assert not reused and trained.fingerprint == train_bpe(texts, 600, "starcoder2").fingerprint
    files = sorted((tmp_path / "in").glob("*.zst"))
    assert train_on_documents(files, tmp_path / "tok", 600, "starcoder2")[1], "the same files, named one by one"
    assert not train_on_documents(files[:1], tmp_path / "tok", 600, "starcoder2")[1]
    single, _ = train_on_documents(files[0], tmp_path / "tok1", 600, "starcoder2")
    assert single.fingerprint == train_bpe(sources[:2], 600, "starcoder2").fingerprint
    other, reused = train_on_documents(files, tmp_path / "spm", 500, "starcoder2", kind="sentencepiece-bpe")
    assert (tmp_path / "spm" / "tokenizer.model").is_file() and not reused
    again, reused = train_on_documents(files, tmp_path / "spm", 500, "starcoder2", kind="sentencepiece-bpe")
    assert reused and again.fingerprint == other.fingerprint
    with pytest.raises(DataError, match="tokenizer kind must be one of bpe, sentencepiece-unigram, sentencepiece-bpe"):
        train_on_documents(files, tmp_path / "x", 500, "starcoder2", kind="word")
    (tmp_path / "spm" / "made_from.json").write_text("{")
    assert not train_on_documents(files, tmp_path / "spm", 500, "starcoder2", kind="sentencepiece-bpe")[1]


def test_training_reads_its_texts_as_a_stream(sources: list[str]) -> None:
    """One text after another, each let go of: the library asks for a few hundred ahead, not for all."""
    alive: set[int] = set()
    most = 0

    class Text(str):
        def __del__(self) -> None:
            alive.discard(id(self))

    def texts() -> Iterator[str]:
        nonlocal most
        for n in range(5000):
            text = Text(f"def f{n}(x): return x + {n}\n")
            alive.add(id(text))
            most = max(most, len(alive))
            yield text

    train_bpe(texts(), 400, "starcoder")
    assert most < 1000
