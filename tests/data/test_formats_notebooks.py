"""Notebooks: chains and scripts, formats 3 and 4, and a reason for everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from formatted import check_formatted, spelled
from hypothesis import given, settings
from hypothesis import strategies as st

from megacode.data.documents import Document
from megacode.data.formats import notebooks
from megacode.data.formats.kernels import COMMENTS, language_of_kernel
from megacode.data.formats.notebooks import notebook_document, script_document
from megacode.data.formats.rows import BINARY, NO_OBJECT, NOT_UTF8

PYTHON = {"language_info": {"name": "python"}, "kernelspec": {"name": "python3"}}


def text(source: str | list[str]) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def code(source: str | list[str], *printed: str) -> dict[str, Any]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": one} for one in printed]
    return {"cell_type": "code", "source": source, "outputs": outputs, "execution_count": 1}


def row(*cells: dict[str, Any], metadata: object = PYTHON, **columns: object) -> dict[str, Any]:
    return {"content": json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}), **columns}


def made(found: Document | str, family: str = "starcoder2") -> Document:
    assert isinstance(found, Document), found
    check_formatted(found, family)
    return found


def chain(*cells: dict[str, Any]) -> str:
    return spelled(made(notebook_document(row(*cells), "starcoder2")))


def test_text_code_and_output_are_a_chain() -> None:
    assert chain(text(["# Title\n", "Text"]), code("x = 1\nprint(x)", "1\n"), text("end")) == (
        "<jupyter_start><jupyter_text># Title\nText<jupyter_code>x = 1\nprint(x)<jupyter_output>1\n<jupyter_text>end"
    )


def test_neighbouring_cells_are_one_up_to_the_first_output() -> None:
    cells = [text("a"), text("b\n"), text("c"), code("1"), code("2", "two"), code("3"), code("4")]
    assert chain(*cells) == (
        "<jupyter_start><jupyter_text>a\nb\nc<jupyter_code>1\n2<jupyter_output>two"
        "<jupyter_code>3\n4<jupyter_output><empty_output>"
    )


def test_empty_cells_and_raw_cells_are_left_out() -> None:
    raw = {"cell_type": "raw", "source": "raw"}
    assert chain(text(" \n"), code("1"), raw, code(""), code("2")) == (
        "<jupyter_start><jupyter_code>1\n2<jupyter_output><empty_output>"
    )


def test_of_outputs_the_text_is_kept() -> None:
    cell = code("f()", "printed\n")
    cell["outputs"] += [
        {"output_type": "display_data", "data": {"image/png": "iVBOR"}},
        {"output_type": "execute_result", "data": {"text/plain": ["4", "2"], "text/html": "<b>"}},
        {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["\x1b[0;31m"]},
        {"output_type": "stream", "text": 5},
        "odd",
    ]
    assert chain(cell) == "<jupyter_start><jupyter_code>f()<jupyter_output>printed\n42\nValueError: no"


def test_format_3_is_read() -> None:
    old = {
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": ["Head"]},
                    {"cell_type": "code", "language": "python", "input": ["x"], "outputs": [{"text": ["5"]}]},
                ]
            }
        ],
        "metadata": {"name": ""},
        "nbformat": 3,
    }
    document = made(notebook_document({"content": json.dumps(old)}, "starcoder"), "starcoder")
    assert spelled(document) == "<jupyter_start><jupyter_text>## Head<jupyter_code>x<jupyter_output>5"
    assert document.language == "python"


def test_a_script_has_text_as_comments_and_code_as_it_is() -> None:
    given_row = row(
        text("# Title\n\nText"), code("%matplotlib inline\nx = 1\n"), code("  y"), repo_name="a/b", path="n"
    )
    second = made(script_document(given_row, "starcoder2"))
    assert spelled(second) == "<jupyter_script># # Title\n#\n# Text\n\n%matplotlib inline\nx = 1\n\n  y\n"
    first = made(script_document(given_row, "starcoder"), "starcoder")
    assert spelled(first) == second.content
    assert not first.parts  # plain code, which may have metadata before it
    assert (first.kind, first.language, first.repository, first.path) == ("notebook", "python", "a/b", "n")


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        *((PYTHON, "python"), ({"kernelspec": {"name": "python3"}}, "python"), ({"kernelspec": {"name": "ir"}}, "r")),
        *(({"language_info": {"name": "R"}}, "r"), ({"kernelspec": {"language": "C++17"}}, "c++")),
        *(({"kernelspec": {"name": "julia-1.9"}}, "julia"), ({"kernelspec": {"name": ".net-csharp"}}, "c#")),
        *(({}, ""), (None, ""), ([], ""), ({"kernelspec": 3, "language_info": {"name": 4}}, "")),
        ({"kernelspec": {"name": "q#"}, "language_info": {"name": "c++17"}}, "c++"),
    ],
)
def test_the_language_is_the_kernels(metadata: object, language: str) -> None:
    assert language_of_kernel(metadata) == language


def test_each_language_has_its_own_comments() -> None:
    assert [COMMENTS[name] for name in ("python", "c++", "haskell", "octave", "clojure")] == ["#", "//", "--", "%", ";"]
    scala = {"language_info": {"name": "scala"}}
    assert made(script_document(row(text("a"), code("b"), metadata=scala), "starcoder2")).content == "// a\n\nb\n"


def test_a_kernel_without_a_known_language_gives_a_chain_but_no_script() -> None:
    odd = row(code("x"), metadata={"kernelspec": {"name": "mine"}})
    assert script_document(odd, "starcoder") == notebooks.NO_LANGUAGE
    assert made(notebook_document(odd, "starcoder"), "starcoder").language == "mine"
    assert made(notebook_document(row(code("x"), metadata={}), "starcoder"), "starcoder").language == "unknown"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *(("{", notebooks.NO_JSON), ("[" * 100_000, notebooks.NO_JSON), ("<html>", notebooks.NO_JSON)),
        *(("[]", notebooks.NO_NOTEBOOK), ("3", notebooks.NO_NOTEBOOK), ("{}", notebooks.NO_NOTEBOOK)),
        *(('{"cells": {}}', notebooks.NO_NOTEBOOK), ('{"worksheets": [3]}', notebooks.NO_NOTEBOOK)),
        *(('{"worksheets": []}', notebooks.NO_NOTEBOOK), ('{"cells": []}', notebooks.NO_CODE)),
        *(('{"cells": [3]}', notebooks.ODD_CELL), ('{"cells": [{}]}', notebooks.ODD_CELL)),
        ('{"cells": [{"cell_type": "code", "source": [1]}]}', notebooks.ODD_CELL),
        ('{"cells": [{"cell_type": "markdown", "source": "x"}]}', notebooks.NO_CODE),
        ('{"cells": [{"cell_type": "code", "source": "a\\u0000b"}]}', BINARY),
        ('{"cells": [{"cell_type": "code", "source": "a\\ud800b"}]}', NOT_UTF8),
        *(("", notebooks.NO_CONTENT), (" ", notebooks.NO_CONTENT), (None, notebooks.NO_CONTENT)),
    ],
)
def test_damaged_and_foreign_content_has_a_reason(content: object, reason: str) -> None:
    assert notebook_document({"content": content}, "starcoder2") == reason


@pytest.mark.parametrize("given_row", [None, 3, "text", []])
def test_rows_of_another_shape_have_a_reason(given_row: object) -> None:
    assert notebook_document(given_row, "starcoder2") == script_document(given_row, "starcoder2") == NO_OBJECT


def test_a_byte_order_mark_is_no_damage() -> None:
    assert made(notebook_document({"content": "\ufeff" + row(code("x"))["content"]}, "starcoder2"))


sources = st.one_of(st.text(max_size=30), st.sampled_from(["<jupyter_code>", "<|endoftext|>", "a\r\nb", "x\n\n", " "]))
cells = st.one_of(
    st.builds(text, st.one_of(sources, st.lists(sources, max_size=3))),
    st.builds(code, sources, sources),
    st.builds(code, sources),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(cells, max_size=10))
def test_every_filled_cell_and_output_survives_in_order(given_cells: list[dict[str, Any]]) -> None:
    given_row = row(*given_cells)
    found = notebook_document(given_row, "starcoder")
    assert found == notebook_document(given_row, "starcoder")
    if isinstance(found, str):
        assert found in (notebooks.NO_CODE, BINARY)
        return
    specials = check_formatted(found, "starcoder")
    assert specials[0] == "<jupyter_start>"
    for special, following in zip(specials, [*specials[1:], "<jupyter_start>"], strict=True):
        assert (special == "<jupyter_code>") == (following == "<jupyter_output>")
        assert special != "<jupyter_text>" or following != "<jupyter_text>"
    at = 0
    for cell in given_cells:
        source = "".join(cell["source"])
        if source.strip():
            printed = [one["text"] for one in cell.get("outputs", ()) if one["text"].strip()]
            for said in (source, *printed):
                at = found.content.index(said, at) + len(said)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["cells", "source", "cell_type", "outputs", "data", "text", "metadata", "worksheets"]),
            st.one_of(inner, st.sampled_from(["code", "markdown"])),
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_any_json_is_a_document_or_a_reason(value: object) -> None:
    for make in (notebook_document, script_document):
        found = make({"content": json.dumps(value)}, "starcoder2")
        assert (isinstance(found, str) and found) or check_formatted(found, "starcoder2")
