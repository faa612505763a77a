"""Jupyter notebooks, as chains of text, code and output, or as scripts whose comments are the text.

    <jupyter_start><jupyter_text>text<jupyter_code>code<jupyter_output>output…          structured
    <jupyter_script>code with the text as comments                                      script, StarCoder 2

StarCoder's scripts are plain code (arXiv 2305.06161, section 3.2; arXiv 2402.19173, section 5.4). Neighbouring cells
of text become one; so do neighbouring cells of code, up to the first that printed something, so that an output
stands behind the code it is of. Code that printed nothing before text or the end has <jupyter_output><empty_output>.

Limits: of outputs only text (printed, text/plain, and an error's name and message) is kept, no images or HTML.
A kernel whose language is unknown gives no script; the language is not guessed from the code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from megacode.data.documents import Document, with_parts
from megacode.data.formats import rows
from megacode.data.formats.kernels import COMMENTS, language_of_kernel
from megacode.data.formats.keyed import hash_of

KIND = "notebook"
UNKNOWN = "unknown"
START, TEXT, CODE = "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"
OUTPUT, EMPTY, SCRIPT = "<jupyter_output>", "<empty_output>", "<jupyter_script>"
MOST_HEADING = 6

NO_CONTENT = "no content (the text of an .ipynb file)"
NO_JSON = "not JSON"
NO_NOTEBOOK = "JSON, but no notebook (no list of cells)"
ODD_CELL = "a cell without a type or whose source is no text"
NO_CODE = "no code in any cell"
NO_LANGUAGE = "a kernel of unknown language"


@dataclass(frozen=True)
class Cell:
    """A cell with something in it; `output` is the text that code printed, or empty."""

    is_code: bool
    source: str
    output: str = ""


def notebook_document(row: object, family: str) -> Document | str:
    """Return the structured document of a notebook, or the reason why there is none.

    `row` is an object whose `content` is the text of an .ipynb file, of format 3 or 4. The language is the kernel's, or
    "unknown". Raises DataError for a family that lacks the special tokens.
    """
    rows.require(family, KIND, (START, TEXT, CODE, OUTPUT, EMPTY))
    read = _read(row)
    if isinstance(read, str):
        return read
    cells, language = read
    parts = [(START, "")]
    for cell in _merged(cells):
        parts.append((CODE if cell.is_code else TEXT, cell.source))
        if cell.is_code:
            parts += [(OUTPUT, cell.output)] if cell.output else [(OUTPUT, ""), (EMPTY, "")]
    return rows.sound(with_parts(_document(row, language or UNKNOWN, parts), parts))


def script_document(row: object, family: str) -> Document | str:
    """Return a notebook as a script in its kernel's language, text as comment lines, or the reason why there is none.

    Cells are apart by an empty line. Arguments and errors as for `notebook_document`.
    """
    rows.require(family, KIND, ())
    read = _read(row)
    if isinstance(read, str):
        return read
    cells, language = read
    sign = COMMENTS.get(language)
    if sign is None:
        return NO_LANGUAGE
    blocks = [cell.source if cell.is_code else _comment(cell.source, sign) for cell in cells]
    script = "\n\n".join(block.strip("\n") for block in blocks) + "\n"
    document = _document(row, language, [(SCRIPT, script)])
    if family == "starcoder2":
        return rows.sound(with_parts(document, [(SCRIPT, script)]))
    return rows.sound(replace(document, content=script))  # without parts, so metadata may come before it, as for code


def _read(row: object) -> tuple[list[Cell], str] | str:
    """Return the notebook's cells and its language ("" for none), or the reason why it is no notebook with code."""
    if not isinstance(row, Mapping):
        return rows.NO_OBJECT
    content = row.get("content")
    if not isinstance(content, str) or not content.strip():
        return NO_CONTENT
    try:
        notebook = json.loads(content.removeprefix("\ufeff"))
    except (ValueError, RecursionError):  # the second for brackets nested by the thousand
        return NO_JSON
    found = _cells_of(notebook)
    if isinstance(found, str):
        return found
    cells = [_cell(cell) for cell in found]
    if None in cells:
        return ODD_CELL
    filled = [cell for cell in cells if cell.source.strip()]
    if not any(cell.is_code for cell in filled):
        return NO_CODE
    by_cell = next((cell["language"] for cell in found if isinstance(cell.get("language"), str)), "")
    metadata = notebook.get("metadata")
    return filled, language_of_kernel(metadata) or language_of_kernel({"language": by_cell})


def _cells_of(notebook: Any) -> list[Mapping[str, Any]] | str:
    """Return the raw cells of text and code: format 4's `cells`, or those of format 3's worksheets."""
    if not isinstance(notebook, Mapping):
        return NO_NOTEBOOK
    sheets = notebook.get("worksheets")
    lists = [notebook.get("cells")]
    if lists[0] is None and isinstance(sheets, list):
        lists = [sheet.get("cells") if isinstance(sheet, Mapping) else None for sheet in sheets]
    if not lists or not all(isinstance(cells, list) for cells in lists):
        return NO_NOTEBOOK
    cells = [cell for some in lists for cell in some]
    if not all(isinstance(cell, Mapping) and isinstance(cell.get("cell_type"), str) for cell in cells):
        return ODD_CELL
    return [cell for cell in cells if cell["cell_type"] in ("code", "markdown", "heading")]


def _cell(cell: Mapping[str, Any]) -> Cell | None:
    """Return a raw cell's contents, or None when its source is no text."""
    is_code = cell["cell_type"] == "code"
    source = _lines(cell.get("input") if is_code and "source" not in cell else cell.get("source"))
    if source is None:
        return None
    if cell["cell_type"] == "heading":
        level = cell.get("level")
        source = "#" * (level if isinstance(level, int) and 1 <= level <= MOST_HEADING else 1) + " " + source
    outputs = cell.get("outputs")
    printed = [_printed(output) for output in outputs] if is_code and isinstance(outputs, list) else []
    return Cell(is_code, source, _joined([text for text in printed if text.strip()]))


def _printed(output: Any) -> str:
    """Return the text of an output of format 3 or 4, or the empty string."""
    if not isinstance(output, Mapping):
        return ""
    data = output.get("data")
    plain = data.get("text/plain") if isinstance(data, Mapping) else None
    text = _lines(output.get("text")) or _lines(plain)
    if text is None and isinstance(output.get("ename"), str):
        text = f"{output['ename']}: {_lines(output.get('evalue')) or ''}"
    return text or ""


def _lines(value: Any) -> str | None:
    """Return text that is given as a string or as a list of strings, else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return None


def _merged(cells: list[Cell]) -> list[Cell]:
    """Return the cells with neighbours of one type joined; code only up to a cell with an output."""
    merged = []
    for is_code, run in groupby(cells, key=lambda cell: cell.is_code):
        waiting: list[str] = []
        output = ""
        for cell in run:
            waiting.append(cell.source)
            output = cell.output
            if output:
                merged.append(Cell(is_code, _joined(waiting), output))
                waiting = []
        if waiting:
            merged.append(Cell(is_code, _joined(waiting), ""))
    return merged


def _joined(texts: list[str]) -> str:
    """Return the texts one below the other: a newline between two unless the first ends in one."""
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts[:-1]) + "".join(texts[-1:])


def _comment(text: str, sign: str) -> str:
    """Return the text as comment lines."""
    return "\n".join(f"{sign} {line}".rstrip() for line in text.strip("\n").splitlines())


def _document(row: Mapping[str, Any], language: str, parts: list[tuple[str, str]]) -> Document:
    """Return the document of a notebook, without its contents; the parts name one that has no id."""
    origin = rows.origin(row)
    identity = rows.name(row, "id", "hexsha", "blob_id") or hash_of([text for _, text in parts])
    path = rows.text(row, "path", "max_stars_repo_path") or identity
    fields = (origin.repository, origin.licenses, origin.stars, origin.date, KIND)
    return Document(identity, path, language, "", *fields)
