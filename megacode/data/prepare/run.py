"""Prepare a corpus: collect, filter, drop exact and near duplicates, split, write, and keep a manifest of it all.

Limits: documents are held in memory, so this is for corpora of some gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megacode.data.atomic import write_text
from megacode.data.documents import Document, write_documents
from megacode.data.errors import DataError
from megacode.data.prepare.collect import collect
from megacode.data.prepare.exact import drop_exact_duplicates
from megacode.data.prepare.filters import filter_documents
from megacode.data.prepare.near import drop_near_duplicates
from megacode.data.prepare.report import Output, PrepareReport, from_json, to_json
from megacode.data.prepare.sources import find_source, input_sha256, limited
from megacode.data.prepare.split import split
from megacode.data.tokenize import sha256_of

MANIFEST = "manifest.json"
RULES = 1  # raise when a step's rules change, so that old results are made again


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare: `source` a folder of code or table file(s), `out` a folder for the result.

    `validation_share` of documents in [0, 1), `near_threshold` of Jaccard similarity in (0, 1), `permutations` of a
    signature, `limit_files` reads only the first files of the source.
    """

    source: Path
    out: Path
    validation_share: float = 0.03
    near_threshold: float = 0.7
    permutations: int = 256
    limit_files: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_share < 1.0:
            raise DataError(f"validation_share must be in [0, 1); found {self.validation_share}")
        if not 0.0 < self.near_threshold < 1.0:
            raise DataError(f"near_threshold must be in (0, 1); found {self.near_threshold}")
        if not 16 <= self.permutations <= 4096:
            raise DataError(f"permutations must be in [16, 4096]; found {self.permutations}")
        if self.limit_files is not None and self.limit_files < 1:
            raise DataError(f"limit_files must be at least 1, or left out; found {self.limit_files}")


def prepare(options: PrepareOptions) -> PrepareReport:
    """Write OUT/train.jsonl.zst, OUT/validation.jsonl.zst and OUT/manifest.json, and return what was done.

    When OUT holds the result of the same input, options and rules, intact, nothing is done and `reused` is True.
    Raises DataError when the source cannot be read or too little is left of it.
    """
    out = Path(options.out)
    source = limited(find_source(Path(options.source), out), options.limit_files)
    fingerprint = input_sha256(source)
    ready = _ready(out, _settings(options), fingerprint)
    if ready is not None:
        return ready
    documents, collected = collect(source)
    documents, filtered = filter_documents(documents)
    documents, exact = drop_exact_duplicates(documents)
    documents, near = drop_near_duplicates(documents, options.near_threshold, options.permutations)
    train, validation = split(documents, options.validation_share)
    report = PrepareReport(
        out=out,
        options=_settings(options),
        input_sha256=fingerprint,
        steps=(collected, filtered, exact, near),
        train=_write(out, "train.jsonl.zst", train),
        validation=_write(out, "validation.jsonl.zst", validation),
        reused=False,
    )
    write_text(out / MANIFEST, to_json(report))
    return report


def _settings(options: PrepareOptions) -> dict[str, object]:
    """Return what the result depends on besides the input's content."""
    return {
        "source": str(Path(options.source).resolve()),
        "validation_share": options.validation_share,
        "near_threshold": options.near_threshold,
        "permutations": options.permutations,
        "limit_files": options.limit_files,
        "rules": RULES,
    }


def _ready(out: Path, settings: dict[str, object], fingerprint: str) -> PrepareReport | None:
    """Return the report of an intact result of the same input and options, or None."""
    manifest = out / MANIFEST
    if not manifest.is_file():
        return None
    try:
        report = from_json(manifest.read_text(encoding="utf-8"), out)
    except DataError:
        return None
    if (report.options, report.input_sha256) != (settings, fingerprint):
        return None
    whole = all((out / one.name).is_file() and sha256_of(out / one.name) == one.sha256 for one in _outputs(report))
    return report if whole else None


def _outputs(report: PrepareReport) -> tuple[Output, Output]:
    """Return the two files of a result."""
    return report.train, report.validation


def _write(out: Path, name: str, documents: list[Document]) -> Output:
    """Write one set and return its description."""
    write_documents(out / name, documents)
    content_bytes = sum(len(document.content.encode()) for document in documents)
    return Output(name, len(documents), content_bytes, sha256_of(out / name))
