"""StarCoder2's repositories: every file once, whole, in an order that only the seed decides."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from formatted import check_formatted, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.errors import DataError
from megacode.data.formats.repositories import repository_documents

ROOM = 10**9


def file(path: str, content: str, repository: str = "a/b", **more: object) -> Document:
    return Document(f"{repository}:{path}", path, "python", content, repository, **more)


def files(count: int, repository: str = "a/b") -> list[Document]:
    return [file(f"f{number}.py", f"x = {number}\n", repository) for number in range(count)]


def test_with_metadata_the_name_and_each_path_stand_before_the_code() -> None:
    (document,) = repository_documents([file("x.py", "x\n")], 0, ROOM, metadata_rate=1.0)
    assert spelled(document) == "<repo_name>a/b<file_sep>x.py\nx\n"


def test_without_metadata_there_is_only_code() -> None:
    (document,) = repository_documents([file("x.py", "x\n")], 0, ROOM, metadata_rate=0.0)
    assert spelled(document) == "<file_sep>x\n"


def test_a_repository_is_one_document_about_all_its_files() -> None:
    members = [
        file("x.py", "x" * 10, licenses=("MIT",), stars=3, date="2024-01-02"),
        Document("y", "y.c", "c", "y" * 11, "a/b", ("Apache-2.0", "MIT"), 5, "2023-05-06"),
        file("z.py", "z" * 2, stars=1),
    ]
    (document,) = repository_documents(members, 0, ROOM)
    assert (document.kind, document.path, document.repository) == ("repository", "a/b", "a/b")
    assert document.language == "python"  # 12 characters against 11
    assert (document.licenses, document.stars, document.date) == (("Apache-2.0", "MIT"), 5, "2024-01-02")


def test_equal_languages_are_decided_by_name() -> None:
    members = [Document("1", "y.c", "c", "12", "a/b"), Document("2", "x.py", "python", "12", "a/b")]
    assert repository_documents(members, 0, ROOM)[0].language == "c"


def test_half_of_the_repositories_have_metadata() -> None:
    count = 20_000
    documents = repository_documents([file("x.py", "x", f"r/{number}") for number in range(count)], 3, ROOM)
    assert len(documents) == count
    with_names = sum(document.parts[0][0] == "<repo_name>" for document in documents)
    assert abs(with_names - count / 2) < 5 * (count / 4) ** 0.5


def test_orders_are_uniform_over_repositories() -> None:
    members = [member for number in range(1200) for member in files(3, f"r/{number}")]
    orders = Counter(document.content for document in repository_documents(members, 9, ROOM, metadata_rate=0.0))
    assert len(orders) == 6
    assert all(abs(found - 200) < 5 * (200 * 5 / 6) ** 0.5 for found in orders.values())


def test_another_seed_gives_another_order() -> None:
    first, second = (repository_documents(files(30), seed, ROOM, 0.0)[0] for seed in (1, 2))
    assert first.content != second.content
    assert sorted(first.parts) == sorted(second.parts)


contents = st.one_of(st.text(max_size=40), st.sampled_from(["<file_sep>a", "<repo_name>", "<|endoftext|>", "\r\n"]))


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.tuples(st.sampled_from(["", "a/b", "c/d"]), contents), max_size=25),
    room=st.integers(1, 120),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    order=st.randoms(use_true_random=False),
)
def test_every_file_is_there_once_and_whole_in_any_order_of_input(
    texts: list[tuple[str, str]], room: int, rate: float, seed: int, order: random.Random
) -> None:
    members = [file(f"f{number}", text, repository) for number, (repository, text) in enumerate(texts)]
    documents = repository_documents(members, seed, room, rate)
    order.shuffle(members)
    assert documents == repository_documents(members, seed, room, rate)
    found = Counter()
    for document in documents:
        specials = check_formatted(document, "starcoder2")
        named = specials[0] == "<repo_name>"
        assert specials[named:] == ["<file_sep>"] * (len(specials) - named)
        assert not named or document.parts[0][1] == document.repository
        assert len(specials) - named == 1 or len(document.content) <= room
        found.update((document.repository, named, text) for _, text in document.parts[named:])
    named_ones = {repository for repository, named, _ in found if named}
    assert found == Counter(
        (one.repository, named, f"{one.path}\n{one.content}" if named else one.content)
        for one in members
        for named in [one.repository in named_ones]
    )


def test_a_large_repository_becomes_several_documents_with_the_name_again() -> None:
    documents = repository_documents(files(10), 0, 40, metadata_rate=1.0)
    assert len(documents) > 1
    assert all(document.parts[0] == ("<repo_name>", "a/b") for document in documents)
    assert [document.path for document in documents] == [
        f"a/b ({number} of {len(documents)})" for number in range(1, len(documents) + 1)
    ]
    assert len({document.id for document in documents}) == len(documents)


def test_no_document_is_cut_before_it_is_full() -> None:
    documents = repository_documents(files(10), 0, 60, metadata_rate=0.0)
    for document, following in pairwise(documents):
        assert len(document.content) + len(following.parts[0][1]) > 60


def test_the_id_tells_the_files_and_their_order() -> None:
    (one,) = repository_documents(files(5), 0, ROOM)
    (other,) = repository_documents(files(6), 0, ROOM)
    assert one.id != other.id and len(one.id) == 16


def test_a_file_without_a_repository_stays_a_document_of_its_own() -> None:
    (document,) = repository_documents([file("x.py", "x\n", "")], 0, ROOM)
    assert (spelled(document), document.id, document.kind) == ("<file_sep>x\n", ":x.py", "code")


def test_what_is_formatted_already_stays() -> None:
    issue = Document("i", "a/b#1", "github-issues", "t", "a/b", kind="issue", parts=(("<issue_start>", "t"),))
    assert issue in repository_documents([issue, *files(2)], 0, ROOM)


def test_no_room_is_refused() -> None:
    with pytest.raises(DataError, match="room for at least 1 character"):
        repository_documents(files(1), 0, 0)
