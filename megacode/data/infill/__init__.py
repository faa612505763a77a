"""Fill-in-the-middle on whole documents: a pure function of (seed, epoch, document, piece), applied before packing."""

from megacode.data.infill.document import FimKey, FimResult, Infiller
from megacode.data.infill.invert import invert_fim
from megacode.data.infill.policy import LEFT_TO_RIGHT, PSM, SPM, UNPAID, FimPolicy

__all__ = [
    "LEFT_TO_RIGHT",
    "PSM",
    "SPM",
    "UNPAID",
    "FimKey",
    "FimPolicy",
    "FimResult",
    "Infiller",
    "invert_fim",
]
