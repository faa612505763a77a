"""Both directions between megacode's logical tensors and a Hugging Face architecture, whichever it is.

A family is a module (bigcode.py, starcoder2.py) that says how each tensor of one side is made of the other's. Shapes
follow from the same functions, run on tensors without contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from megacode.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    from megacode.config.schema import ModelConfig

ReadTensor = Callable[[str], Tensor]
Shapes = dict[str, tuple[int, ...]]


def logical_shapes(model: ModelConfig) -> Shapes:
    """Every logical tensor of the model with its global shape, in the order of a forward pass."""
    hidden, keys = model.hidden, model.kv_heads * model.head_width
    shapes: Shapes = {"embedding.tokens.weight": (model.vocab, hidden)}
    if model.positions == "learned":
        shapes["embedding.positions.weight"] = (model.context, hidden)
    parts = {
        "attention_norm": (hidden,),
        "attention.query": (hidden, hidden),
        "attention.key_value": (2, keys, hidden),
        "attention.out": (hidden, hidden),
        "mlp_norm": (hidden,),
        "mlp.up": (model.ffn, hidden),
        "mlp.down": (hidden, model.ffn),
    }
    for layer in range(model.layers):
        for part, shape in parts.items():
            shapes[f"layers.{layer}.{part}.weight"] = shape
            shapes[f"layers.{layer}.{part}.bias"] = shape if len(shape) == 1 else shape[:-1]
    shapes |= {"final_norm.weight": (hidden,), "final_norm.bias": (hidden,)}
    if not model.tied:
        shapes["head.weight"] = (model.vocab, hidden)
    return shapes


class HubNames(NamedTuple):
    """Logical names of the tensors that a Hugging Face model has as they are: of its ends, and of each layer.

    `layers`: what a layer's tensors begin with there, before its number.
    """

    ends: Mapping[str, str]
    per_layer: Mapping[str, str]
    layers: str


def own_tensors(
    model: ModelConfig, read: ReadTensor, names: HubNames, fused: Callable[[str, str, str], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Every logical tensor, in the order of `logical_shapes`; `read` gives a tensor of the Hugging Face model.

    `fused` makes those that it has in another form, from what a layer's tensors begin with, the logical name inside the
    layer, and `weight` or `bias`.
    """
    for name in logical_shapes(model):
        if (hub := names.ends.get(name)) is not None:
            yield name, read(hub)
            continue
        _, layer, own = name.split(".", 2)
        own, _, part = own.rpartition(".")
        prefix = f"{names.layers}.{layer}"
        if (hub := names.per_layer.get(own)) is not None:
            yield name, read(f"{prefix}.{hub}.{part}")
        else:
            yield name, fused(prefix, own, part)


def hub_shapes(family: ModuleType, model: ModelConfig) -> Shapes:
    """Every tensor of the Hugging Face model with its shape, in the order in which `hub_tensors` makes them."""
    hub: Iterator[tuple[str, Tensor]] = family.hub_tensors(model, _without_contents(logical_shapes(model)))
    return {name: tuple(tensor.shape) for name, tensor in hub}


def _without_contents(shapes: Mapping[str, tuple[int, ...]]) -> ReadTensor:
    return lambda name: torch.empty(shapes[name], device="meta")


def twin_of(model: ModelConfig) -> ModuleType:
    """The family whose architecture computes what `model` does.

    Raises CheckpointError that names everything in which the model has no twin at Hugging Face.
    """
    from megacode.checkpoint.huggingface import bigcode, starcoder2

    family = starcoder2 if model.positions == "rotary" else bigcode
    if lacks := list(family.lacks(model)):
        raise CheckpointError(
            f"{family.ARCHITECTURES[0]} has {', and '.join(lacks)}; this model cannot be written for Hugging Face"
        )
    return family
