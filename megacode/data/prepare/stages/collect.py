"""Stage 1: input files to documents; licences and filters; into buckets by the hash of the content.

Held in memory: one document, and SPILL_BYTES of documents on their way to the buckets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from megacode.data.documents import Document, to_json
from megacode.data.errors import DataError
from megacode.data.formats import rows
from megacode.data.formats.kinds import documents_of
from megacode.data.opening import open_regular, shown
from megacode.data.prepare.buckets import BucketWriter, bucket_of
from megacode.data.prepare.filters import RULE_SETS, licence_allowed, why_dropped
from megacode.data.prepare.inputs.checkouts import Checkout
from megacode.data.prepare.inputs.rows import (
    IDENTITY,
    LANGUAGE,
    PATH,
    Damage,
    NoDocument,
    file_row,
    no_content,
    table_rows,
)
from megacode.data.prepare.inputs.sources import Input
from megacode.data.prepare.languages import language_of
from megacode.data.prepare.options import PrepareOptions, Source
from megacode.data.prepare.plan import Plan
from megacode.data.prepare.split import key_of
from megacode.data.prepare.tally import COLLECT, FILTERS, LICENCES, Tally, bytes_of
from megacode.data.prepare.writing import write_json

NOT_CODE = "not known as source code"
NO_LICENCE, OTHER_LICENCE = "no licence", "a licence that is not allowed"
UNKNOWN = "unknown"


def collect(plan: Plan, rank: int) -> None:
    """Read the input files of task `rank`. Raises DataError for damaged input, unless that is to be skipped."""
    tally = Tally()
    digests = []
    with BucketWriter(plan.collected / f"{rank:05d}.zst") as writer:
        for one in plan.inputs(rank):
            for found in documents(one, plan):
                _take(found, plan.options.sources[one.source], plan, tally, writer)
            digests.append((one.source, one.place, _sha256(one, plan)))
    write_json(plan.stats("collect", rank), {"tally": tally.to_table(), "inputs": digests})


Found = Document | Damage | NoDocument
Check = Callable[[Document, PrepareOptions], str | None]


def documents(one: Input, plan: Plan) -> Iterator[Found]:
    """Yield what an input file holds: documents, damage, and what is none."""
    options = plan.options
    source = options.sources[one.source]
    checkout = plan.checkouts[one.checkout] if one.checkout >= 0 else None
    for read in _rows(one, source, options):
        if isinstance(read, Damage | NoDocument):
            yield read
            continue
        place, row = read
        found = _document(row, place, one, source, options)
        if isinstance(found, Document):
            yield _with_origin(found, source, checkout)
        else:
            yield found if isinstance(found, Damage) else NoDocument(found, place)


def _rows(one: Input, source: Source, options: PrepareOptions) -> Iterator[tuple[str, Any] | Damage | NoDocument]:
    """Yield (place, row) for each row; a file that is one document is a row."""
    path = Path(one.path)
    if one.is_table:
        yield from table_rows(path, one.place, options.limits, source.kind == "code")
        return
    read = file_row(path, one.place, options.limits)
    yield (one.place, read) if isinstance(read, dict) else read


def _document(row: Any, place: str, one: Input, source: Source, options: PrepareOptions) -> Document | Damage | str:
    """Return the document of a row, what is wrong with the row, or the reason why it gives no document."""
    if source.kind != "code":
        return documents_of(source.kind, row, options.format.family, options.format.seed)
    if not isinstance(row, dict) or not isinstance(row.get("content"), str | bytes):
        return no_content(shown(one.path) + place.removeprefix(one.place), place, row)
    content = row["content"]
    if not one.is_table and language_of(one.place, "" if isinstance(content, bytes) else content) is None:
        return NOT_CODE
    if isinstance(content, bytes):
        return rows.BINARY if b"\0" in content else rows.NOT_UTF8
    if len(content) > options.limits.most_file_bytes:
        return f"a file over {options.limits.most_file_bytes:,} bytes"
    path, told = rows.text(row, *PATH), rows.origin(row)
    language = (rows.text(row, *LANGUAGE) or language_of(path, content) or UNKNOWN).lower()
    identity = rows.name(row, *IDENTITY) or _identity(content)
    return rows.sound(
        Document(identity, path or identity, language, content, told.repository, told.licenses, told.stars, told.date)
    )


def _identity(content: str) -> str:
    """Return the first 16 hexadecimal digits of the content's sha256."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _with_origin(document: Document, source: Source, checkout: Checkout | None) -> Document:
    """Return the document with what its checkout or its source says where it says nothing itself."""
    named = checkout.repository if checkout else source.repository
    licences = (checkout.licences if checkout else ()) or ((source.licence,) if source.licence else ())
    return replace(
        document,
        repository=document.repository or named,
        licenses=document.licenses or licences,
        date=document.date or (checkout.date if checkout else ""),
    )


def _take(found: Found, source: Source, plan: Plan, tally: Tally, writer: BucketWriter) -> None:
    """Count what was found, and hand a document that stays to its bucket."""
    if isinstance(found, Damage):
        if plan.options.limits.on_damage == "fail":
            raise DataError(found.message)
        tally.drop(COLLECT, found.reason, found.place)
    elif isinstance(found, NoDocument):
        tally.drop(COLLECT, found.reason, found.place)
    else:
        size = bytes_of(found)
        tally.keep(COLLECT, size)
        if source.name:
            tally.count(COLLECT, f"from {source.name}", 1)
        for step, asked, why in _checks(plan.options):
            if not asked:
                continue
            reason = why(found, plan.options)
            if reason is not None:
                tally.drop(step, reason, found.path)
                return
            tally.keep(step, size)
        writer.add(bucket_of(key_of(found), plan.buckets), to_json(found).encode())


def _checks(options: PrepareOptions) -> tuple[tuple[str, bool, Check], ...]:
    """Return (step, whether it is asked for, what tells why a document goes) in order."""
    chosen = options.filters
    asks_licences = bool(chosen.licences) or chosen.unlicensed == "drop"
    return (LICENCES, asks_licences, _why_unlicensed), (FILTERS, chosen.rules != "none", _why_filtered)


def _why_unlicensed(document: Document, options: PrepareOptions) -> str | None:
    """Return why the document's licences keep it out, or None."""
    if not document.licenses:
        return NO_LICENCE if options.filters.unlicensed == "drop" else None
    allowed = options.filters.licences
    return None if not allowed or licence_allowed(document.licenses, allowed) else OTHER_LICENCE


def _why_filtered(document: Document, options: PrepareOptions) -> str | None:
    """Return which rule drops the document, or None. The rules are about files of code."""
    if document.kind != "code":
        return None
    return why_dropped(document, RULE_SETS[options.filters.rules])


def _sha256(one: Input, plan: Plan) -> str:
    """Return the sha256 of an input file, hexadecimal, or an empty text where it cannot be read any more."""
    try:
        with open_regular(Path(one.path)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except DataError:
        if plan.options.limits.on_damage == "fail":
            raise
        return ""
