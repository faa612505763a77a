"""Samples as training sees them, taken apart again: is fill-in-the-middle what was asked for, and what did it cost?

Every document of the samples is held against the one in the shard: infilling is undone and must give the same bytes,
less what was cut from the far ends of suffixes; middles and the special tokens behind them must be whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from megacode.data.errors import DataError
from megacode.data.infill import LEFT_TO_RIGHT, PSM, SPM, UNPAID
from megacode.data.infill.invert import Arranged, arranged_pieces, invert_fim
from megacode.data.infill.policy import FimPolicy
from megacode.data.stream.stream import SampleStream
from megacode.data.tokenizers.tokenizer import Tokenizer

MOST_FINDINGS = 20


@dataclass
class Audit:
    """What was found in `samples` samples of `documents` documents' parts; `findings` must be empty.

    `pieces`: by what became of them; `sources`: samples by source. `tokens` of the documents, `sentinels` among those
    they are trained on, `lost_bytes` cut from the ends of suffixes. `sample_tokens` of the samples, `padding` and
    `uncounted` (in no loss) among them, `removed` documents' parts.
    """

    samples: int = 0
    documents: int = 0
    tokens: int = 0
    sample_tokens: int = 0
    sentinels: int = 0
    lost_bytes: int = 0
    padding: int = 0
    uncounted: int = 0
    removed: int = 0
    pieces: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def rearranged(self) -> int:
        """Pieces in PSM or SPM order."""
        return self.pieces[PSM] + self.pieces[SPM]

    def find(self, text: str) -> None:
        """Note something that must not be; the first ones are kept."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(text)


def audit(stream: SampleStream, tokenizer: Tokenizer, numbers: Iterable[int]) -> Audit:
    """Take apart the samples of the given numbers."""
    found = Audit()
    for number in numbers:
        sample, origin, filled = stream.sample(number), stream.origin(number), 0
        found.samples += 1
        found.sample_tokens += sample.tokens.size
        found.sources[stream.names[origin.source]] += 1
        found.uncounted += int((sample.weights[1:] == 0).sum())
        for span in stream.spans(number):
            part = sample.tokens[filled : filled + span.stop - span.start]
            filled += part.size
            shard = stream.sources[origin.source].shards[span.shard]
            name = f"sample {number}: {shard.prefix} document {span.document}"
            result = stream.document(origin, span)
            if result is None:
                found.removed += 1
                continue
            if not np.array_equal(part, result.tokens[span.start : span.stop]):
                found.find(f"{name}: the sample does not hold the document's tokens {span.start} to {span.stop}")
            found.pieces.update(result.orders)
            stored = shard.document(span.document)
            _part(found, name, stored[span.start : span.stop], part, span.stop == stored.size, tokenizer)
        found.padding += sample.tokens.size - filled
    return found


def _part(found: Audit, name: str, stored: np.ndarray, seen: np.ndarray, is_end: bool, tokenizer: Tokenizer) -> None:
    """Hold what a sample shows of a document against the shard's tokens; `is_end`: the document's end is shown."""
    found.documents += 1
    found.tokens += stored.size
    if seen.size != stored.size or (is_end and seen[-1] != tokenizer.end_of_text):
        found.find(f"{name}: {seen.size} tokens, the last {int(seen[-1])}; must be {stored.size}, with end-of-text")
    try:
        pieces = arranged_pieces(seen, tokenizer)
    except DataError as error:
        if not np.array_equal(seen, stored):
            found.find(f"{name}: {error}")
        return
    restored = invert_fim(seen, tokenizer)
    if pieces and not is_end and not tokenizer.table.special[stored[-1]]:
        restored = restored[:-1]  # the end-of-text that infilling put where the document goes on in the next sample
    before, after = _between_specials(stored, tokenizer), _between_specials(restored, tokenizer)
    if len(before) != len(after):
        found.find(f"{name}: infilling lost or made special tokens")
    for one, other in zip(before, after, strict=False):
        original, left = tokenizer.decode_bytes(one.tolist()), tokenizer.decode_bytes(other.tolist())
        if not original.startswith(left):
            found.find(f"{name}: infilling undone gives other text than the shard's")
        found.lost_bytes += len(original) - len(left)
    for piece in pieces:
        _piece(found, name, piece, seen, tokenizer)
    found.sentinels += len(pieces) * 3


def _piece(found: Audit, name: str, piece: Arranged, seen: np.ndarray, tokenizer: Tokenizer) -> None:
    """Check one rearranged piece: whole characters at its cuts, a suffix, and a special token behind the middle."""
    if piece.stop >= seen.size or not tokenizer.table.special[seen[piece.stop]]:
        found.find(f"{name}: no special token ends the middle at token {piece.stop}")
    if not piece.suffix.size:
        found.find(f"{name}: the suffix at token {piece.start} is empty")


def _between_specials(tokens: np.ndarray, tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return the tokens between special tokens."""
    return np.split(tokens, np.flatnonzero(tokenizer.table.special[tokens]))


def render_audit(found: Audit, policy: FimPolicy | None) -> str:
    """Return the audit as lines for people."""
    total, tokens = max(1, sum(found.pieces.values())), max(1, found.tokens)
    lines = [
        f"{found.samples:,} samples, {found.documents:,} parts of documents, {found.sample_tokens:,} tokens",
        "sources   "
        + ", ".join(f"{name} {count / max(1, found.samples):.1%}" for name, count in found.sources.items()),
        f"padding   {found.padding / max(1, found.sample_tokens):.2%} of the tokens; "
        f"{found.uncounted / max(1, found.sample_tokens):.2%} count nothing in the loss",
    ]
    if policy is not None:
        chosen = found.rearranged + found.pieces[UNPAID]
        lines += [
            f"pieces    {total:,}: {found.pieces[LEFT_TO_RIGHT] / total:.1%} left to right, "
            f"{found.pieces[PSM] / total:.1%} PSM, {found.pieces[SPM] / total:.1%} SPM, "
            f"{found.pieces[UNPAID] / total:.1%} too short to pay",
            f"rates     {chosen / total:.3f} chosen (asked {policy.rate:g}), "
            f"{found.pieces[SPM] / max(1, found.rearranged):.3f} of them in SPM order (asked {policy.spm_rate:g})",
            f"cost      {found.lost_bytes:,} bytes cut from the ends of suffixes; "
            f"{found.sentinels / tokens:.2%} of the tokens are sentinels",
        ]
    if found.removed:
        lines.append(f"removed   {found.removed:,} parts of documents that asked out")
    lines += found.findings or ["sound     every document is the shard's, byte for byte, less the cut ends of suffixes"]
    return "\n".join(lines)
