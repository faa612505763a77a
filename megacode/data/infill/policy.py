"""What fill-in-the-middle does, in numbers, and the names of what can become of a piece."""

from __future__ import annotations

from dataclasses import dataclass

from megacode.data.errors import DataError

LEFT_TO_RIGHT = "left-to-right"
PSM = "psm"
SPM = "spm"
UNPAID = "left-to-right, suffix too short"


@dataclass(frozen=True)
class FimPolicy:
    """Rates in [0, 1] and the forms of fill-in-the-middle (Bavarian et al., arXiv 2207.14255).

    `rate`: share of pieces rearranged, a piece being a document's code or a repository's file; `spm_rate`: share of
    those in SPM order, the rest PSM; `spm_variant` 2 as StarCoder, or 1; `repository_rate`: share of repositories whose
    files are candidates at all (StarCoder2, arXiv 2402.19173, section 5.1).
    `middle_only`: of a rearranged piece only the middle and the token after it count in the loss. `by_syntax`: the
    middle is a run of whole siblings of the syntax tree, where there is a grammar.
    """

    rate: float = 0.5
    spm_rate: float = 0.5
    spm_variant: int = 2
    repository_rate: float = 0.5
    middle_only: bool = False
    by_syntax: bool = False

    def __post_init__(self) -> None:
        rates = (("rate", self.rate), ("spm_rate", self.spm_rate), ("repository_rate", self.repository_rate))
        for name, value in rates:
            if not 0.0 <= value <= 1.0:
                raise DataError(f"fim {name} must be in [0, 1]; found {value}")
        if self.spm_variant not in (1, 2):
            raise DataError(f"fim spm_variant must be 1 or 2; found {self.spm_variant}")
