"""Where each token's document starts and ends, on the device, so that the attention kernels skip what lies outside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megacode.kernels.reference import check_documents


@dataclass(frozen=True)
class DocumentBounds:
    """The documents of one micro-batch; make it once with `of` and give it to the attention of every layer.

    documents: lengths in tokens, row after row, adding up to b s.
    starts:    of each position's document, the first position within its row, int32 [b, s].
    ends:      one past its last position, int32 [b, s].
    """

    documents: tuple[int, ...]
    starts: Tensor
    ends: Tensor

    @classmethod
    def of(cls, documents: tuple[int, ...], batch: int, length: int, device: torch.device) -> DocumentBounds:
        """Return the bounds of `documents` in `batch` rows of `length` tokens.

        Counted on the CPU and sent in one copy that the host does not wait for.
        Raises ValueError where the documents do not fill the rows (`reference.check_documents`).
        """
        check_documents(documents, batch, length)
        lengths = torch.tensor(documents)
        ends = lengths.cumsum(0)
        starts = (ends - lengths) % length
        both = torch.stack([starts, starts + lengths]).repeat_interleave(lengths, dim=1).to(torch.int32)
        both = both.view(2, batch, length)
        # A copy from pageable memory would make the host wait.
        both = (both.pin_memory() if device.type == "cuda" else both).to(device, non_blocking=True)
        return cls(documents, both[0], both[1])
