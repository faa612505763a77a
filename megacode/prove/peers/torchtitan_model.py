"""A decoder of our structure for torchtitan: its modules, its sharding declarations, its root class.

torchtitan 0.3 has no model with multi-query attention, biases, LayerNorm and learned positions; what is missing is
here, each part a `Module` of its protocol, so that its tensor parallelism, FSDP and pipeline cut it like its own
models. Keys and values that cannot be divided among the tp ranks are computed on all of them, as ours are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import spmd_types as spmd
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torchtitan.models.common import CosSinRoPE, Decoder, Embedding, Linear
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.decoder_sharding import (
    colwise_config,
    dense_activation_placement,
    dense_param_placement,
    dense_sequence_parallel_placement,
    norm_config,
    rowwise_config,
    set_decoder_sharding_config,
)
from torchtitan.models.common.nn_modules import LayerNorm
from torchtitan.protocols.module import Module
from torchtitan.protocols.sharding import LocalMapConfig, ShardingConfig


def decoder_config(model: dict[str, Any], tp: int, tied: bool) -> Code.Config:
    """torchtitan's configuration of the run's [model] table, with what each part's tensors do on the tp axis.

    `tied`: whether embedding and head are one parameter; its pipeline has none that are.
    """
    hidden, vocab, std, learned = model["hidden"], model["vocab"], model["init_std"], model["positions"] == "learned"
    positions = None
    if learned:
        positions = Positions.Config(
            context=model["context"],
            hidden=hidden,
            param_init={"weight": partial(_draw, std, "positions")},
            sharding_config=ShardingConfig(
                state_shardings={"weight": dense_param_placement(tp=spmd.R)},
                in_src_shardings={"x": dense_sequence_parallel_placement()},
                out_src_shardings=dense_sequence_parallel_placement(),
            ),
        )
    head = Linear.Config(in_features=hidden, out_features=vocab, param_init={"weight": partial(_draw, std, "tokens")})
    config = Code.Config(
        dim=hidden,
        vocab_size=vocab,
        tok_embeddings=Embedding.Config(
            num_embeddings=vocab, embedding_dim=hidden, param_init={"weight": partial(_draw, std, "tokens")}
        ),
        positions=positions,
        norm=_norm(model),
        lm_head=head,
        layers=[_block(model, tp, f"layers.{index}") for index in range(model["layers"])],
        enable_weight_tying=tied,
    )
    set_decoder_sharding_config(config, enable_sp=True)
    config.norm.sharding_config.state_shardings["bias"] = config.norm.sharding_config.state_shardings["weight"]
    return config


def _block(model: dict[str, Any], tp: int, name: str) -> Block.Config:
    hidden, width = model["hidden"], model["hidden"] // model["heads"]
    divided = model["kv_heads"] % tp == 0
    rotary = model["positions"] == "rotary"
    heads = dense_activation_placement(tp=spmd.S(2))
    shared = heads if divided else dense_activation_placement(tp=spmd.R)
    shared_gradient = heads if divided else dense_activation_placement(tp=spmd.P)
    whole = ShardingConfig(
        state_shardings={key: dense_param_placement(tp=spmd.R) for key in ("weight", "bias")},
        out_src_shardings=dense_activation_placement(tp=spmd.R),
    )
    inner = InnerAttention.Config(
        rope=CosSinRoPE.Config(dim=width, max_seq_len=model["context"], theta=model["rope_theta"]) if rotary else None,
        sharding_config=ShardingConfig(
            in_src_shardings={"q_BLNH": heads, "k_BLNH": shared, "v_BLNH": shared},
            in_dst_shardings={"q_BLNH": heads, "k_BLNH": shared, "v_BLNH": shared},
            out_src_shardings=heads,
            local_map=LocalMapConfig(in_grad_placements=(heads, shared_gradient, shared_gradient)),
        ),
    )
    linear = partial(_linear, model["init_std"], name)
    return Block.Config(
        norm1=_norm(model),
        attention=Attention.Config(
            width=width,
            query=linear("query", hidden, hidden, colwise_config()),
            key_value=linear("kv", hidden, 2 * model["kv_heads"] * width, colwise_config() if divided else whole),
            inner=inner,
            out=linear("out", hidden, hidden, rowwise_config(output_sp=True)),
            sharding_config=_gathered(),
        ),
        norm2=_norm(model),
        mlp=Mlp.Config(
            up=linear("up", hidden, model["ffn"], colwise_config()),
            down=linear("down", model["ffn"], hidden, rowwise_config(output_sp=True)),
            sharding_config=_gathered(),
        ),
    )


def _linear(std: float, block: str, name: str, width_in: int, width_out: int, sharding: ShardingConfig) -> Any:
    start: dict[str, Callable[[Tensor], object]] = {
        "weight": partial(_draw, std, f"{block}.{name}"),
        "bias": nn.init.zeros_,
    }
    return Linear.Config(
        in_features=width_in, out_features=width_out, bias=True, param_init=start, sharding_config=sharding
    )


def _norm(model: dict[str, Any]) -> LayerNorm.Config:
    sharding = norm_config(enable_sp=True)
    sharding.state_shardings["bias"] = sharding.state_shardings["weight"]
    return LayerNorm.Config(normalized_shape=model["hidden"], eps=model["norm_eps"], sharding_config=sharding)


def _gathered() -> ShardingConfig:
    """x comes cut along the sequence and is gathered."""
    return ShardingConfig(
        in_src_shardings={"x": dense_sequence_parallel_placement()},
        in_dst_shardings={"x": dense_activation_placement(tp=spmd.R)},
    )


@torch.no_grad()
def _draw(std: float, name: str, parameter: Tensor) -> None:
    """Normal values that depend on the name only, so that every layout starts from the same model."""
    seeded = torch.Generator().manual_seed(crc32(name.encode()))
    values = torch.empty(parameter.shape).normal_(std=std, generator=seeded).to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is not None:
        everywhere = [spmd.spmd_type_to_dtensor_placement(spmd.R)] * mesh.ndim
        values = type(parameter).from_local(values, mesh, everywhere, run_check=False)
        values = values.redistribute(placements=parameter.placements)
    parameter.copy_(values)


class InnerAttention(ScaledDotProductAttention):
    """torchtitan's attention kernel, with rotary positions before it where the model has them. [b, s, n, d]."""

    @dataclass(kw_only=True, slots=True)
    class Config(ScaledDotProductAttention.Config):
        rope: CosSinRoPE.Config | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rope = config.rope.build() if config.rope is not None else None

    def forward(self, q_BLNH: Tensor, k_BLNH: Tensor, v_BLNH: Tensor) -> Tensor:
        if self.rope is not None:
            q_BLNH, k_BLNH = self.rope(q_BLNH, k_BLNH)
        if k_BLNH.shape[2] == 1:  # torch's fused kernel takes one head seen by all, but no groups of them, on a CPU
            k_BLNH, v_BLNH = k_BLNH.expand_as(q_BLNH), v_BLNH.expand_as(q_BLNH)
        return super().forward(q_BLNH, k_BLNH, v_BLNH, enable_gqa=k_BLNH.shape[2] != q_BLNH.shape[2])


class Attention(Module):
    """Attention with a bias on every projection; keys and values of a head lie side by side. x: [b, s, h]."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        width: int
        query: Linear.Config
        key_value: Linear.Config
        inner: InnerAttention.Config
        out: Linear.Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width = config.width
        self.query, self.key_value = config.query.build(), config.key_value.build()
        self.inner, self.out = config.inner.build(), config.out.build()

    def forward(self, x: Tensor) -> Tensor:
        batch, sequence, _ = x.shape
        query = self.query(x).view(batch, sequence, -1, self.width)
        key, value = self.key_value(x).view(batch, sequence, -1, 2 * self.width).chunk(2, dim=-1)
        return self.out(self.inner(query, key, value).flatten(2))


class Mlp(Module):
    """Two linears with biases and tanh GELU between. x: [b, s, h]."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        up: Linear.Config
        down: Linear.Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up, self.down = config.up.build(), config.down.build()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x), approximate="tanh"))


class Block(Module):
    """Pre-LayerNorm attention and MLP. x: [b, s, h], cut along s under tensor parallelism."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        norm1: LayerNorm.Config
        attention: Attention.Config
        norm2: LayerNorm.Config
        mlp: Mlp.Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1, self.norm2 = config.norm1.build(), config.norm2.build()
        self.attention, self.mlp = config.attention.build(), config.mlp.build()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Positions(Module):
    """Learned positions, added to x: [b, s, h]."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        context: int
        hidden: int

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.context, config.hidden))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.shape[1]]


class Code(Decoder):
    """torchtitan's Decoder, with learned positions: tokens [b, s] to logits [b, s, v]. What a stage lacks is None."""

    @dataclass(kw_only=True, slots=True)
    class Config(Decoder.Config):
        positions: Positions.Config | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.positions = config.positions.build() if config.positions is not None else None

    def parallelize(self, parallel_dims: Any) -> None:
        """Cut the parameters; a tied pair is made two by this and must become one again before FSDP sees it."""
        super().parallelize(parallel_dims)
        if self.enable_weight_tying:
            self.tok_embeddings.weight = self.lm_head.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens) if self.tok_embeddings is not None else tokens
        if self.positions is not None:
            x = self.positions(x)
        for layer in self.layers.values():
            x = layer(x)
        x = self.norm(x) if self.norm is not None else x
        return self.lm_head(x) if self.lm_head is not None else x
