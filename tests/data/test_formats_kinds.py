"""By the name of a kind: each kind reaches its format, every JSON value has an answer, and mistakes are named."""

from __future__ import annotations

import pytest
from formatted import check_formatted
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.draws import COMMIT, METADATA
from megacode.data.errors import DataError
from megacode.data.formats.keyed import hash_of, words_for
from megacode.data.formats.kinds import KINDS, documents_of

COLUMNS = ["events", "content", "old_contents", "new_contents", "message", "title", "id", "path", "stars", "date"]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*COLUMNS, "text", "author"]), inner, max_size=6)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(row=json_values)
def test_any_row_is_a_document_or_a_reason(kind: str, row: object) -> None:
    found = documents_of(kind, row, "starcoder", 0)
    if isinstance(found, Document):
        check_formatted(found, "starcoder")
    else:
        assert found and isinstance(found, str)


def test_each_kind_reaches_its_format() -> None:
    notebook = '{"cells": [{"cell_type": "code", "source": "x"}], "metadata": {"language_info": {"name": "r"}}}'
    rows = {
        "issue": {"events": [{"action": "opened", "author": "a", "text": "x" * 200}]},
        "commit": {"old_contents": "a\nb\nc", "new_contents": "d\ne\nf", "message": "Read it all in one pass"},
        "notebook": {"content": notebook},
        "notebook-script": {"content": notebook},
    }
    assert set(rows) == set(KINDS)
    for kind, row in rows.items():
        document = documents_of(kind, row, "starcoder", 0)
        assert isinstance(document, Document) and document.kind == kind.removesuffix("-script")
    assert documents_of("notebook", rows["notebook"], "starcoder", 0) != documents_of(
        "notebook-script", rows["notebook"], "starcoder", 0
    )


def test_the_origin_of_a_row_is_read_under_the_stacks_names() -> None:
    row = {
        "content": '{"cells": [{"cell_type": "code", "source": "x"}]}',
        "max_stars_repo_name": "a/b",
        "max_stars_repo_path": "n.ipynb",
        "max_stars_repo_licenses": ["MIT", None],
        "max_stars_count": 12.0,
        "hexsha": "abc",
        "revision_date": "2023-01-02",
    }
    document = documents_of("notebook", row, "starcoder", 0)
    assert isinstance(document, Document)
    assert (document.id, document.path, document.repository) == ("abc", "n.ipynb", "a/b")
    assert (document.licenses, document.stars, document.date) == (("MIT",), 12, "2023-01-02")


def test_an_unknown_kind_or_family_is_the_configurations_mistake() -> None:
    with pytest.raises(DataError, match=r"kind 'isue'; choose one of issue, commit"):
        documents_of("isue", {}, "starcoder", 0)
    with pytest.raises(DataError, match=r"called 'starcoder3'; choose one of starcoder, starcoder2"):
        documents_of("issue", {}, "starcoder3", 0)


def test_draws_belong_to_seed_purpose_and_name() -> None:
    one = words_for(1, METADATA, "a", 3)
    assert one == words_for(1, METADATA, "a", 3) == words_for(1, METADATA, "a", 5)[:3]
    others = [words_for(2, METADATA, "a", 3), words_for(1, COMMIT, "a", 3), words_for(1, METADATA, "b", 3)]
    assert one not in others


def test_a_hash_tells_texts_and_their_borders() -> None:
    assert len({hash_of(texts) for texts in (["ab"], ["a", "b"], ["b", "a"], ["a", "", "b"], [], [""])}) == 6
    assert hash_of(["é\ud800"]) == hash_of(["é\ud800"])
