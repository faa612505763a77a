"""The bugs that other engines' fill-in-the-middle has or had, one test each, under the letters of our notes on them.

A: all of bigcode-Megatron, Fast-LLM and Megatron-core. B: bigcode-Megatron. F: Fast-LLM. M: Megatron-core.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megacode.data.batches import BatchPlan
from megacode.data.documents import Document, with_parts, write_documents
from megacode.data.errors import DataError
from megacode.data.infill import LEFT_TO_RIGHT, PSM, SPM, UNPAID, FimKey, FimPolicy, Infiller
from megacode.data.infill.cuts import Cut, tokens_between
from megacode.data.infill.invert import arranged_pieces
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.tokenize import tokenize
from megacode.data.stream.blend import Blend, Phase
from megacode.data.stream.plan import write_plan
from megacode.data.stream.stream import SampleStream, SourceShards
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.train.feed import open_feed, validation_kinds

Shard = Callable[..., ShardReader]
ALWAYS = FimPolicy(rate=1.0, repository_rate=1.0)


def stream_of(
    reader: ShardReader,
    tokenizer: Tokenizer,
    policy: FimPolicy | None,
    sequence: int = 64,
    packing: str = "concatenate",
) -> SampleStream:
    infillers = [Infiller(policy, tokenizer)] if policy else []
    source = SourceShards("one", [reader], tokenizer.fim_pad, infillers)
    return SampleStream([source], Blend([Phase(0, (1.0,))], 3), sequence, 3, packing)


def encoded(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    return [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]


def rearranged(tokens: np.ndarray, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The documents of `tokens` that hold a middle."""
    ends = np.flatnonzero(tokens == tokenizer.end_of_text) + 1
    return [part for part in np.split(tokens, ends) if (part == tokenizer.fim_middle).any()]


@pytest.fixture
def short(shard: Shard, tokenizer: Tokenizer) -> ShardReader:
    """300 documents of some 40 characters, in which Megatron-core lost every sixth sample's last middle."""
    return shard(encoded([f"def f{n}(x):\n    return x + {n % 7}  # {n}\n" for n in range(300)], tokenizer))


def everything(stream: SampleStream) -> np.ndarray:
    """All documents as samples that hold them whole show them, in the shard's order."""
    seen: dict[int, np.ndarray] = {}
    for n in range(8 * stream.packings[0].samples_per_epoch):
        for span in stream.spans(n):
            document = stream.document(stream.origin(n), span).tokens
            if (span.start, span.stop) == (0, document.size):
                seen[span.document] = document
    return np.concatenate([seen[document] for document in sorted(seen)])


def test_a1_nothing_is_rearranged_where_nothing_is(shard: Shard, tokenizer: Tokenizer) -> None:
    """A sample that ended in end-of-text got a stray prefix, suffix, middle."""
    reader = shard([[tokenizer.end_of_text]] * 50 + encoded(["x = 1\n" * 30] * 3, tokenizer))
    for document in range(50):
        result = Infiller(ALWAYS, tokenizer).apply(reader.document(document), FimKey(1, 0, document))
        assert (result.tokens.tolist(), result.orders) == ([tokenizer.end_of_text], ())


def test_a2_separators_of_empty_pieces_stay(tokenizer: Tokenizer) -> None:
    """A leading <file_sep>, and empty files' ones, vanished."""
    file_sep, code = 6, tokenizer.encode("value = function(argument)\n" * 9)
    tokens = np.array([file_sep, file_sep, *code, file_sep, *code, file_sep, file_sep, 0])
    for number in range(100):
        seen = Infiller(ALWAYS, tokenizer).apply(tokens, FimKey(1, 0, number)).tokens
        assert np.array_equal(np.flatnonzero(seen == file_sep), np.flatnonzero(tokens == file_sep))
        assert seen[-1] == 0


def test_a3_growth_never_costs_a_middle_or_its_end(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Three sentinels more were paid for by the sample's end: the last document's middle and stop token."""
    seen = everything(stream_of(short, tokenizer, ALWAYS))
    assert seen.size == short.tokens and (seen == tokenizer.end_of_text).sum() == 300
    found = rearranged(seen, tokenizer)
    assert len(found) > 150
    for document in found:
        assert document[-1] == tokenizer.end_of_text
        assert [(document == one).sum() for one in (tokenizer.fim_prefix, tokenizer.fim_suffix)] == [1, 1]


def test_a4_no_character_is_broken(shard: Shard, tokenizer: Tokenizer) -> None:
    """A sample's edge inside a character was decoded to U+FFFD and trained on."""
    reader = shard(encoded([f"名前{n} = '🙂é日本'  # ü\n" * 6 for n in range(60)], tokenizer))
    stream = stream_of(reader, tokenizer, ALWAYS, sequence=7)
    for n in range(stream.packings[0].samples_per_epoch):
        for span in stream.spans(n):
            document = stream.document(stream.origin(n), span).tokens
            assert "\ufffd".encode() not in tokenizer.decode_bytes(document.tolist())


def test_a5_only_the_words_at_a_cut_are_tokenized_again(tokenizer: Tokenizer, sources: list[str]) -> None:
    piece = np.array(tokenizer.encode(sources[0]))
    low, high = Cut(400, 1), Cut(900, 0)
    prefix, middle = (tokens_between(*cuts, piece, tokenizer) for cuts in ((Cut(0, 0), low), (low, high)))
    assert np.array_equal(prefix[:360], piece[:360])
    assert any(np.array_equal(middle[k : k + 400], piece[440:840]) for k in range(80))


@pytest.mark.parametrize("sequence", [16, 64, 200])
@pytest.mark.parametrize("middle_only", [False, True])
def test_a3_a_middle_what_surrounds_it_and_its_end_are_in_one_sample(
    short: ShardReader, tokenizer: Tokenizer, sequence: int, middle_only: bool
) -> None:
    """A rearranged document that a sample's edge cut taught a middle to follow from nothing, or to end nowhere."""
    policy = FimPolicy(rate=1.0, middle_only=middle_only)
    stream, touched, cut = stream_of(short, tokenizer, policy, sequence), 0, 0
    for n in range(2 * stream.packings[0].samples_per_epoch):
        sample, filled = stream.sample(n), 0
        for span in stream.spans(n):
            place = slice(filled, filled + span.stop - span.start)
            part, weights, filled = sample.tokens[place], sample.weights[place], place.stop
            plain = short.document(span.document)[span.start : span.stop]
            middle = np.flatnonzero(part == tokenizer.fim_middle)
            if not middle.size:
                assert np.array_equal(part, plain) and (weights == 1).all()
                continue
            (piece,) = arranged_pieces(part, tokenizer)
            assert part[-1] == tokenizer.end_of_text and piece.stop == part.size - 1 and piece.suffix.size
            shown = tokenizer.decode_bytes(plain.tolist())
            assert shown.startswith(tokenizer.decode_bytes([*piece.prefix, *piece.middle, *piece.suffix]))
            assert not weights[: middle[0] + 1].any() if middle_only else (weights == 1).all()
            assert weights[-1] == 1
            touched += 1
            cut += span.stop < short.lengths[span.document] or span.start > 0
    assert touched > 200 and cut > 20


def test_b1_without_infilling_a_sample_is_the_same_kind_of_thing(short: ShardReader, tokenizer: Tokenizer) -> None:
    """A rate of 0 returned a bare array where the loader wanted a table."""
    plain, zero = (stream_of(short, tokenizer, policy).sample(5) for policy in (None, FimPolicy(rate=0.0)))
    assert type(plain) is type(zero) and np.array_equal(plain.tokens, zero.tokens)


def test_b2_a_tokenizer_without_sentinels_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It was a KeyError from inside the data loader."""
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<fim_middle>", "<other>"))
    with pytest.raises(DataError, match="special tokens missing: <fim_middle>"):
        Tokenizer.load(tmp_path)


def test_b3_and_m1_the_same_sample_every_time_and_for_everyone(short: ShardReader, tokenizer: Tokenizer) -> None:
    """A generator that lives on gave the same index other data at every access, worker and restart."""
    one, other = (stream_of(short, tokenizer, FimPolicy()) for _ in range(2))
    for n in (3, 0, 3, 9, 3):
        assert np.array_equal(one.sample(n).tokens, one.sample(n).tokens)
    for n in reversed(range(10)):
        assert np.array_equal(other.sample(n).tokens, one.sample(n).tokens)


def test_b4_padding_counts_nothing(short: ShardReader, tokenizer: Tokenizer) -> None:
    write_plan(short, 64)
    plain, packed = (stream_of(short, tokenizer, ALWAYS, packing=kind) for kind in ("concatenate", "best-fit"))
    pads = 0
    for n in range(packed.packings[0].samples_per_epoch):
        sample = packed.sample(n)
        is_pad = sample.tokens == tokenizer.fim_pad
        pads += is_pad.sum()
        assert (sample.weights[is_pad] == 0).all() and (sample.weights[~is_pad] == 1).all()
        assert tokenizer.fim_pad not in plain.sample(n).tokens
    assert pads > 0


def test_f1_documents_of_a_sample_decide_for_themselves(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Every document of a sample drew from the same seed: all rearranged or none."""
    stream = stream_of(short, tokenizer, FimPolicy(0.5), sequence=256)
    mixed = neighbours = alike = 0
    for n in range(stream.packings[0].samples_per_epoch):
        orders = [stream.document(stream.origin(n), span).orders for span in stream.spans(n)]
        chosen = [order != LEFT_TO_RIGHT for of_document in orders for order in of_document]
        mixed += len(set(chosen)) == 2
        neighbours += len(chosen) - 1
        alike += sum(a == b for a, b in pairwise(chosen))
    assert mixed > 0.9 * stream.packings[0].samples_per_epoch
    assert abs(alike / neighbours - 0.5) < 4 * (0.25 / neighbours) ** 0.5


def test_f2_every_document_keeps_its_end_and_its_middle(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Each was cut to its old length from behind: 1,512 of 1,568 lost their stop token."""
    for document in range(short.documents):
        result = Infiller(ALWAYS, tokenizer).apply(short.document(document), FimKey(1, 0, document))
        assert result.tokens[-1] == tokenizer.end_of_text and result.tokens.size == short.lengths[document]
        assert (result.tokens == tokenizer.fim_middle).sum() == (result.orders[0] in (PSM, SPM))


def test_f3_end_of_text_comes_once_and_last(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Prefix and suffix were tokenized with begin and end marks, so a stop token stood before the middle."""
    for document in range(short.documents):
        seen = Infiller(ALWAYS, tokenizer).apply(short.document(document), FimKey(1, 0, document)).tokens
        assert np.flatnonzero(seen == tokenizer.end_of_text).tolist() == [seen.size - 1]


def test_f4_it_is_on_by_default_and_weights_are_possible(short: ShardReader, tokenizer: Tokenizer) -> None:
    assert (FimPolicy().rate, FimPolicy().spm_rate, FimPolicy().repository_rate) == (0.5, 0.5, 0.5)
    middle_only = Infiller(FimPolicy(rate=1.0, middle_only=True), tokenizer)
    for document in range(40):
        result = middle_only.apply(short.document(document), FimKey(1, 0, document))
        counted = result.weights == 1
        if result.orders[0] == UNPAID:
            assert counted.all()
        else:
            start = int(np.flatnonzero(result.tokens == tokenizer.fim_middle)[0])
            assert not counted[: start + 1].any() and counted[-1]
            if result.orders[0] == PSM:
                assert counted[start + 1 :].all()  # the middle and the end-of-text behind it


def test_m2_special_tokens_survive(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Decoding without special tokens deleted <repo_name>, <file_sep>, <issue_start> inside rearranged pieces."""
    code = "value = function(argument)\n" * 12
    files = [("<repo_name>", "owner/name"), *[("<file_sep>", f"src/{n}.py\n{code}") for n in range(4)]]
    document = with_parts(Document("1", "owner/name", "python", ""), files)
    write_documents(tmp_path / "d.jsonl.zst", [document])
    tokenize(tmp_path / "d.jsonl.zst", tokenizer, tmp_path / "d")
    tokens = ShardReader(tmp_path / "d").document(0)
    special = tokenizer.table.special
    names = tokens[special[tokens]].tolist()
    assert len(names) == 6
    infiller, touched = Infiller(ALWAYS, tokenizer), 0
    for number in range(50):
        seen = infiller.apply(tokens, FimKey(1, 0, number)).tokens
        others = ~np.isin(seen, (tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix)) & special[seen]
        assert seen[others].tolist() == names
        touched += int((seen == tokenizer.fim_middle).sum())
        text = tokenizer.decode(seen.tolist())
        assert text.startswith("<repo_name>owner/name<file_sep>src/0.py\n")  # metadata is never cut
        assert all(f"<file_sep>src/{n}.py\n" in text for n in range(4))
    assert touched > 150


def test_m3_documents_keep_their_lengths_for_masking(short: ShardReader, tokenizer: Tokenizer) -> None:
    """With infilling a sample was one document, whatever it held."""
    with_fim, without = (
        BatchPlan(stream_of(short, tokenizer, policy), 1, 1, 1, keeps_documents_apart=True) for policy in (ALWAYS, None)
    )
    for step in range(20):
        assert with_fim.micro_batch(step, 0, 0).documents == without.micro_batch(step, 0, 0).documents
    assert len(with_fim.micro_batch(0, 0, 0).documents) > 1


def test_m4_repositories_work_with_the_defaults(tokenizer: Tokenizer) -> None:
    """Splitting by file without naming a rate for files was a TypeError in the data loader."""
    code = tokenizer.encode("value = function(argument)\n" * 12)
    tokens = np.array([6, *code, 6, *code, 0])
    orders = [Infiller(FimPolicy(), tokenizer).apply(tokens, FimKey(1, 0, n)).orders for n in range(4000)]
    touched = [[order != LEFT_TO_RIGHT for order in pair] for pair in orders]
    files = np.array(touched).mean()
    assert abs(files - 0.25) < 0.02  # half of the repositories, half of their files
    assert abs(np.array(touched).any(axis=1).mean() - 0.5 * 0.75) < 0.03


def test_m5_rates_of_zero_are_rates(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Pure PSM, and no infilling on the same path, were refused by an assertion."""
    for policy, allowed in [(FimPolicy(1.0, 0.0), {PSM, UNPAID}), (FimPolicy(0.0), {LEFT_TO_RIGHT})]:
        infiller = Infiller(policy, tokenizer)
        orders = {infiller.apply(short.document(n), FimKey(1, 0, n)).orders[0] for n in range(100)}
        assert orders <= allowed


def test_m6_a_corpus_shorter_than_a_sample_works(shard: Shard, tokenizer: Tokenizer) -> None:
    """The last short validation sample had another length than the rest."""
    reader = shard(encoded(["x = 1\n"], tokenizer))
    sample = stream_of(reader, tokenizer, ALWAYS, sequence=100).sample(0)
    assert sample.tokens.size == sample.weights.size == sum(sample.lengths) == 101


def test_m7_validation_is_frozen_and_told_apart(short: ShardReader, tokenizer: Tokenizer) -> None:
    """Validation was rearranged by the same moving generator, so that two evaluations never compared."""
    kinds = validation_kinds(FimPolicy(0.5, 0.5))
    assert list(kinds) == ["left_to_right", "psm", "spm"]
    for kind, policy in kinds.items():
        one, other = (stream_of(short, tokenizer, policy) for _ in range(2))
        samples = [one.sample(n).tokens for n in range(20)]
        assert all(np.array_equal(other.sample(n).tokens, samples[n]) for n in range(20))
        found = rearranged(np.concatenate(samples), tokenizer)
        assert bool(found) == (kind != "left_to_right")


def test_m8_what_a_configuration_says_reaches_the_samples(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """An entry point ignored the setting."""
    from megacode.config.load import parse_config

    tokenizer.save(tmp_path)
    texts = [f"def f{n}(x):\n    return x + {n % 7}  # {n}\n" for n in range(50)]
    write_documents(
        tmp_path / "d.jsonl.zst", [Document(str(n), "a.py", "python", text) for n, text in enumerate(texts)]
    )
    tokenize(tmp_path / "d.jsonl.zst", tokenizer, tmp_path / "d")

    def middles(**fim: object) -> int:
        table = {
            "model": {"layers": 1, "hidden": 8, "heads": 1, "vocab": 1500},
            "data": {"train": str(tmp_path / "d"), "tokenizer": str(tmp_path), "sequence": 64, "fim": fim},
            "optim": {"lr": 1.0},
            "train": {"steps": 1, "global_batch": 16},
        }
        batch = open_feed(parse_config(table, "test")).train.micro_batch(0, 0, 0)
        return int((batch.tokens == tokenizer.fim_middle).sum())

    assert middles(rate=0.0) == 0 < middles(rate=1.0)
