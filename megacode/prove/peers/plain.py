"""The same decoder in a page of plain torch, in a plain training loop: what the hardware gives without an engine."""

from __future__ import annotations

import sys
from typing import Any

import torch
from loop import check, train
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from worker import Serve, Setup, work


def run(setup: Setup, serve: Serve) -> None:
    """Build the model and serve steps."""
    check(setup)
    model = setup.config["model"]
    setup.refuse_unless(model["window"] is None, "has no window")
    train(setup, Decoder(model), lambda net, tokens: net(tokens), serve)


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP with biases. x: [b, s, h]."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        hidden, self.heads, self.kv_heads = model["hidden"], model["heads"], model["kv_heads"]
        self.width = hidden // self.heads
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, model["norm_eps"]) for _ in range(2))
        self.qkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.width)
        self.out = nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, model["ffn"]), nn.Linear(model["ffn"], hidden)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        batch, sequence, _ = x.shape
        split = [self.heads, self.kv_heads, self.kv_heads]
        heads = self.qkv(self.norm1(x)).view(batch, sequence, -1, self.width).transpose(1, 2)
        query, key, value = heads.split(split, dim=1)
        if angles is not None:
            query, key = turned(query, angles), turned(key, angles)
        if self.kv_heads == 1:
            key, value = key.expand_as(query), value.expand_as(query)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.kv_heads > 1)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, sequence, -1))
        return x + self.down(gelu(self.up(self.norm2(x)), approximate="tanh"))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021), the halves of a head paired. x: [b, n, s, d], angles: [s, d/2]."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class Decoder(nn.Module):
    """Tokens [b, s] to logits [b, s, v]."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        hidden, self.rotary = model["hidden"], model["positions"] == "rotary"
        self.tokens = nn.Embedding(model["vocab"], hidden)
        self.positions = None if self.rotary else nn.Embedding(model["context"], hidden)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model["layers"]))
        self.norm = nn.LayerNorm(hidden, model["norm_eps"])
        self.head = self.tokens.weight if model["tied"] else nn.Parameter(torch.empty(model["vocab"], hidden))
        half = hidden // model["heads"] // 2
        self.register_buffer("frequencies", model["rope_theta"] ** (-torch.arange(half) / half), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=model["init_std"])
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(places)
        angles = torch.outer(places, self.frequencies) if self.rotary else None
        for block in self.blocks:
            x = block(x, angles)
        return linear(self.norm(x), self.head)


if __name__ == "__main__":
    work(run, sys.argv[1])
