"""The laws of fill-in-the-middle, over any text and any tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.errors import DataError
from megacode.data.infill import (
    LEFT_TO_RIGHT,
    PSM,
    SPM,
    UNPAID,
    FimKey,
    FimPolicy,
    FimResult,
    Infiller,
    invert_fim,
)
from megacode.data.tokenizers.tokenizer import Tokenizer

ALWAYS = FimPolicy(1.0, 0.5, repository_rate=1.0)
FILE_SEP = 6
keys = st.builds(FimKey, st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 10**9))
texts = st.one_of(
    st.text(min_size=1, max_size=300),
    st.lists(
        st.sampled_from(["def f(x):\n", "    return x", "日本語", "🙂", "é", "\r\n", "\x00", "12"]), min_size=4
    ).map("".join),
)


def document(text: str, tokenizer: Tokenizer) -> np.ndarray:
    return np.array([*tokenizer.encode(text), tokenizer.end_of_text], dtype=np.uint16)


def parts(tokens: np.ndarray, order: str, tokenizer: Tokenizer) -> tuple[bytes, bytes, bytes]:
    """Return prefix (PSM) or b"" (SPM), what follows the suffix sentinel, and what follows the middle sentinel."""
    row = tokens.tolist()
    suffix, middle = row.index(tokenizer.fim_suffix), row.index(tokenizer.fim_middle)
    assert row[0] == tokenizer.fim_prefix and (suffix == 1 or order == PSM)
    pieces = (row[1:suffix], row[suffix + 1 : middle], row[middle + 1 : -1])
    return tuple(tokenizer.decode_bytes(piece) for piece in pieces)


def check_laws(tokens: np.ndarray, result: FimResult, tokenizer: Tokenizer) -> None:
    """Length kept, end-of-text last and once, sentinels once each or not at all, bytes invert, middle whole."""
    assert result.tokens.size == tokens.size
    assert np.flatnonzero(result.tokens == tokenizer.end_of_text).tolist() == [tokens.size - 1]
    rearranged = sum(order in (PSM, SPM) for order in result.orders)
    for sentinel in (tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle):
        assert int((result.tokens == sentinel).sum()) == rearranged
    assert tokenizer.fim_pad not in result.tokens
    original = tokenizer.decode_bytes(tokens[:-1].tolist())
    inverted = tokenizer.decode_bytes(invert_fim(result.tokens, tokenizer)[:-1].tolist())
    if not rearranged:
        assert (result.tokens == tokens).all()
    if rearranged and not tokenizer.table.special[tokens[:-1]].any():
        prefix, suffix, middle = parts(result.tokens, result.orders[0], tokenizer)
        assert inverted == prefix + middle + suffix and original.startswith(inverted) and suffix


@settings(max_examples=400, deadline=None)
@given(text=texts, key=keys)
def test_laws_for_any_text(tokenizer: Tokenizer, text: str, key: FimKey) -> None:
    tokens = document(text, tokenizer)
    result = Infiller(ALWAYS, tokenizer).apply(tokens, key)
    check_laws(tokens, result, tokenizer)
    again = Infiller(FimPolicy(1.0, 0.5), tokenizer).apply(tokens.copy(), FimKey(*key))
    assert (again.tokens == result.tokens).all() and again.orders == result.orders
    if result.orders[0] in (PSM, SPM):
        for part in parts(result.tokens, result.orders[0], tokenizer)[::2]:
            part.decode()  # prefix and middle are whole characters


@settings(max_examples=400, deadline=None)
@given(body=st.lists(st.integers(38, 1499), min_size=1, max_size=80), key=keys)
def test_laws_for_any_tokens(tokenizer: Tokenizer, body: list[int], key: FimKey) -> None:
    """Random ids are mostly not valid UTF-8: characters begin and end anywhere."""
    tokens = np.array([*body, 0], dtype=np.int32)
    check_laws(tokens, Infiller(ALWAYS, tokenizer).apply(tokens, key), tokenizer)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(38, 1499), max_size=30), min_size=1, max_size=6), key=keys)
def test_special_tokens_are_hard_borders(tokenizer: Tokenizer, pieces: list[list[int]], key: FimKey) -> None:
    rows = [row for piece in pieces for row in (*piece, FILE_SEP)]
    tokens = np.array([*rows, 0], dtype=np.uint16)
    result = Infiller(ALWAYS, tokenizer).apply(tokens, key)
    check_laws(tokens, result, tokenizer)
    borders = np.flatnonzero(tokens == FILE_SEP)
    assert (np.flatnonzero(result.tokens == FILE_SEP) == borders).all()
    assert len(result.orders) == sum(map(bool, pieces))
    restored = invert_fim(result.tokens, tokenizer)
    for before, after in zip(split(tokens), split(restored), strict=True):
        assert tokenizer.decode_bytes(before).startswith(tokenizer.decode_bytes(after))


def split(tokens: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens, np.flatnonzero(tokens == FILE_SEP))]


def test_the_suffix_pays_and_never_more_than_it_owes(tokenizer: Tokenizer, sources: list[str]) -> None:
    """What is lost is the far end of the suffix: three sentinels and what the two cuts cost, at most."""
    tokens = document(sources[0], tokenizer)
    for number in range(200):
        result = Infiller(ALWAYS, tokenizer).apply(tokens, FimKey(1, 0, number))
        if result.orders[0] in (PSM, SPM):
            lost = len(sources[0].encode()) - sum(map(len, parts(result.tokens, result.orders[0], tokenizer)))
            kept = tokenizer.encode(sources[0].encode()[len(sources[0].encode()) - lost :].decode(errors="replace"))
            assert 0 < len(kept) <= 3 + 3 * 16


def test_short_documents_stay(tokenizer: Tokenizer) -> None:
    empty = Infiller(ALWAYS, tokenizer).apply(np.array([0]), FimKey(1, 0, 0))
    assert (empty.tokens.tolist(), empty.orders) == ([0], ())
    for number in range(50):
        assert Infiller(ALWAYS, tokenizer).apply(document("a b", tokenizer), FimKey(1, 0, number)).orders == (UNPAID,)


def orders_of(policy: FimPolicy, tokenizer: Tokenizer, tokens: np.ndarray, count: int = 4000) -> Counter:
    keys = [FimKey(7, number // 500, number % 500) for number in range(count)]
    return Counter(Infiller(policy, tokenizer).apply(tokens, key).orders[0] for key in keys)


def test_rates(tokenizer: Tokenizer) -> None:
    """Measured shares are within four standard deviations of the policy's."""
    tokens = document("value = function(argument)\n" * 40, tokenizer)
    seen = orders_of(FimPolicy(0.5, 0.5), tokenizer, tokens)
    assert abs(seen[LEFT_TO_RIGHT] / 4000 - 0.5) < 4 * (0.25 / 4000) ** 0.5
    rearranged = seen[PSM] + seen[SPM]
    assert abs(seen[SPM] / rearranged - 0.5) < 4 * (0.25 / rearranged) ** 0.5
    assert seen[UNPAID] < 0.05 * rearranged
    assert set(orders_of(FimPolicy(0.0, 0.5), tokenizer, tokens, 500)) == {LEFT_TO_RIGHT}
    assert set(orders_of(FimPolicy(1.0, 0.0), tokenizer, tokens, 500)) <= {PSM, UNPAID}
    assert set(orders_of(FimPolicy(1.0, 1.0), tokenizer, tokens, 500)) <= {SPM, UNPAID}


def test_cuts_are_uniform_over_characters(tokenizer: Tokenizer) -> None:
    """The lower of two uniform cuts lies a third of the way, the upper two thirds; the tail that pays is negligible."""
    text = "ab🙂 é" * 2000
    tokens = document(text, tokenizer)
    low, high = [], []
    for number in range(600):
        result = Infiller(FimPolicy(1.0, 0.0), tokenizer).apply(tokens, FimKey(3, 0, number))
        if result.orders == (PSM,):
            prefix, _, middle = (len(part.decode(errors="ignore")) for part in parts(result.tokens, PSM, tokenizer))
            low.append(prefix / len(text))
            high.append((prefix + middle) / len(text))
    assert abs(np.mean(low) - 1 / 3) < 0.04 and abs(np.mean(high) - 2 / 3) < 0.04


def test_documents_epochs_and_seeds_decide_independently(tokenizer: Tokenizer) -> None:
    tokens = document("value = function(argument)\n" * 40, tokenizer).astype(np.int64)

    def decisions(seed: int, epoch: int) -> list[bytes]:
        policy = FimPolicy(0.5, 0.5)
        infiller = Infiller(policy, tokenizer)
        return [infiller.apply(tokens, FimKey(seed, epoch, one)).tokens.tobytes() for one in range(100)]

    first = decisions(1, 0)
    assert 30 < sum(one == tokens.tobytes() for one in first) < 70
    assert len(set(first)) > 30
    for other in (decisions(2, 0), decisions(1, 1)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 50


def test_wrong_calls(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="document 9 must end in end-of-text"):
        Infiller(ALWAYS, tokenizer).apply(np.array([50, 51]), FimKey(1, 0, 9))
    with pytest.raises(DataError, match=r"fim rate must be in \[0, 1\]; found 1.5"):
        FimPolicy(rate=1.5)
    with pytest.raises(DataError, match=r"fim spm_rate must be in \[0, 1\]; found nan"):
        FimPolicy(spm_rate=float("nan"))
    with pytest.raises(DataError, match="prefix, suffix, middle"):
        invert_fim(np.array([tokenizer.fim_prefix, 50, tokenizer.fim_middle, 51, 0]), tokenizer)


def test_pieces_decide_independently(tokenizer: Tokenizer) -> None:
    piece = [*tokenizer.encode("value = function(argument)\n" * 10), FILE_SEP]
    tokens = np.array([*(piece * 200), tokenizer.end_of_text])
    orders = Infiller(FimPolicy(0.5, 0.5), tokenizer).apply(tokens, FimKey(1, 0, 0)).orders
    assert len(orders) == 200 and 60 < orders.count(LEFT_TO_RIGHT) < 140


def test_only_what_a_sample_shows_is_counted(tokenizer: Tokenizer) -> None:
    """A repository that is no candidate has as many orders as pieces in sight, as one that is."""
    code = tokenizer.encode("value = function(argument)\n" * 5)
    tokens = np.array([FILE_SEP, *code, FILE_SEP, *code, FILE_SEP, *code, 0])
    for policy in (ALWAYS, FimPolicy(1.0, repository_rate=0.0)):
        infiller = Infiller(policy, tokenizer)
        for first, stop, seen in ((0, tokens.size, 3), (len(code) + 2, tokens.size, 2), (0, 4, 1), (0, 1, 0)):
            assert len(infiller.apply(tokens, FimKey(1, 0, 0), (first, stop)).orders) == seen
