"""Rotary position embedding (Su et al. 2021), over the whole head width, halves rotated as Hugging Face's Starcoder2.

Element i of a head turns together with element i + d/2, by the angle position / theta^(2i/d).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn `x` [b, s, n, d], queries or keys, by `positions` [s] or [b, s]; d is even.

    Angles, their cosine and sine, and the products are fp32; returns x's dtype.
    """
    width = x.shape[-1]
    inverse = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width)
    angles = (positions.to(torch.float32).unsqueeze(-1) * inverse).unsqueeze(-2)  # [s, 1, d/2]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
