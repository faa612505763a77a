"""Metadata in front of StarCoder's files: the three facts, their rates, and nothing else in the document."""

from __future__ import annotations

from itertools import combinations

import pytest
from formatted import check_formatted, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.formats.metadata import MetadataRates, stars_bin, with_metadata

SPECIALS = ("<reponame>", "<filename>", "<gh_stars>")
ALWAYS = MetadataRates(1.0, 1.0, 1.0)
texts = st.one_of(st.text(max_size=80), st.sampled_from(["<filename>x", "<|endoftext|>", "a\n<gh_stars>0\n", "\r\n"]))


def file(identity: str, content: str = "x = 1\n", repository: str = "a/b", path: str = "s/x.py") -> Document:
    return Document(identity, path, "python", content, repository, stars=42)


def told(document: Document) -> set[str]:
    return {special for special, _ in document.parts}


@pytest.mark.parametrize(
    ("stars", "told_bin"),
    [
        *((-3, "0"), (0, "0"), (1, "1-10"), (10, "1-10"), (11, "10-100"), (100, "10-100")),
        *((101, "100-1000"), (1000, "100-1000"), (1001, "1000+"), (10**6, "1000+")),
    ],
)
def test_a_border_of_the_stars_belongs_to_the_bin_below(stars: int, told_bin: str) -> None:
    assert stars_bin(stars) == told_bin


def test_all_facts_stand_in_order_before_a_newline_and_the_code() -> None:
    document = with_metadata(file("1"), 0, ALWAYS)
    assert document.parts == (("<reponame>", "a/b"), ("<filename>", "s/x.py"), ("<gh_stars>", "10-100\nx = 1\n"))
    assert spelled(document) == "<reponame>a/b<filename>s/x.py<gh_stars>10-100\nx = 1\n"


def test_without_a_fact_the_document_is_the_same_and_has_no_newline() -> None:
    plain = file("1")
    assert with_metadata(plain, 0, MetadataRates(0.0, 0.0, 0.0)) is plain


def test_what_is_not_known_is_not_told() -> None:
    assert told(with_metadata(file("1", repository=""), 0, ALWAYS)) == {"<filename>"}
    assert told(with_metadata(file("1", path=""), 0, ALWAYS)) == {"<reponame>", "<gh_stars>"}
    nowhere = file("1", repository="", path="")
    assert with_metadata(nowhere, 0, ALWAYS) is nowhere


def test_each_fact_comes_at_its_rate_and_apart_from_the_others() -> None:
    count = 20_000
    drawn = [told(with_metadata(file(f"document {number}"), 5)) for number in range(count)]

    def within(found: int, rate: float) -> bool:
        return abs(found - count * rate) < 5 * (count * rate * (1 - rate)) ** 0.5

    for special in SPECIALS:
        assert within(sum(special in facts for facts in drawn), 0.2)
    for pair in combinations(SPECIALS, 2):
        assert within(sum(set(pair) <= facts for facts in drawn), 0.04)
    assert within(sum(not facts for facts in drawn), 0.8**3)


def test_rates_are_each_facts_own() -> None:
    rates = MetadataRates(repository=0.0, path=1.0, stars=0.5)
    drawn = [told(with_metadata(file(str(number)), 1, rates)) for number in range(2000)]
    assert all("<filename>" in facts and "<reponame>" not in facts for facts in drawn)
    assert 850 < sum("<gh_stars>" in facts for facts in drawn) < 1150


def test_another_seed_draws_other_documents() -> None:
    first, second = ([bool(with_metadata(file(str(n)), seed).parts) for n in range(200)] for seed in (1, 2))
    assert first != second


@settings(max_examples=200, deadline=None)
@given(content=texts, repository=texts, path=texts, seed=st.integers(0, 2**64 - 1))
def test_any_text_survives_and_makes_no_special_token(content: str, repository: str, path: str, seed: int) -> None:
    original = file("id", content, repository, path)
    for rates in (ALWAYS, MetadataRates()):
        document = with_metadata(original, seed, rates)
        assert document == with_metadata(original, seed, rates)
        assert document.content.endswith(content)
        specials = [special for special, _ in document.parts]
        assert specials == [special for special in SPECIALS if special in specials]
        if document.parts:
            assert document.parts[-1][1].endswith("\n" + content)
            assert with_metadata(document, seed, rates) is document


def test_a_line_on_disk_gives_it_back() -> None:
    assert check_formatted(with_metadata(file("1"), 0, ALWAYS), "starcoder") == list(SPECIALS)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_of_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(DataError, match="metadata rate of path must be in"):
        MetadataRates(path=rate)
