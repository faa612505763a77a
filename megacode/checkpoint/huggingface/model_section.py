"""From a Hugging Face config.json to the model section of a run, or to all in it that megacode cannot compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from megacode.checkpoint.decoder import filled
from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.huggingface import bigcode, starcoder2
from megacode.checkpoint.huggingface.settings import Settings
from megacode.config.problem import Problem, render_problems
from megacode.config.rules import find_problems
from megacode.config.schema import ModelConfig, RunConfig

FAMILIES = (bigcode, starcoder2)


@dataclass(frozen=True)
class ModelSection:
    """What a config.json says: whose tensors to expect, the model section, and what is worth telling.

    `model.tied` is the file's word; the tensors may prove it wrong.
    """

    family: ModuleType
    model: ModelConfig
    notes: tuple[str, ...]


def read_model_section(table: Mapping[str, Any], source: str, activation: str | None = None) -> ModelSection:
    """Turn the contents of a config.json into a model section.

    `activation` overrides the file's. Raises CheckpointError that lists every key that megacode cannot follow.
    """
    settings = Settings(table)
    family = _family(table, settings)
    if family is None:
        raise CheckpointError(render_problems(source, settings.problems))
    settings.activation(family.ACTIVATION, activation)
    if (quantized := table.get("quantization_config")) is not None:
        how = quantized.get("quant_method", "?") if isinstance(quantized, dict) else quantized
        settings.problem("quantization_config", repr(how), "cannot be read; export the weights in bf16, fp16 or fp32")
    if pruned := table.get("pruned_heads"):
        settings.problem("pruned_heads", repr(pruned), "cannot be: in megacode every layer has all of its heads")
    settings.free("quantization_config", "pruned_heads")
    fields = {**family.read_settings(settings), "tied": settings.flag("tie_word_embeddings", True)}
    settings.note_unknown()
    model = None if settings.problems else _validated(fields, settings)
    if model is None or settings.problems:
        raise CheckpointError(render_problems(source, settings.problems))
    if model.window is not None and model.window >= model.context:
        settings.note(f"a window of {model.window} reaches over the whole context of {model.context}")
    return ModelSection(family, model, tuple(settings.notes))


def _family(table: Mapping[str, Any], settings: Settings) -> ModuleType | None:
    kind, named = table.get("model_type"), settings.list_of("architectures")
    known = " or ".join(family.ARCHITECTURES[0] for family in FAMILIES)
    family = next((family for family in FAMILIES if kind == family.MODEL_TYPE), None)
    if family is None:
        settings.problem("model_type", repr(kind), f"cannot be: megacode computes {known}")
    elif named and not set(map(str, named)) & set(family.ARCHITECTURES):
        settings.problem("architectures", repr(named), f"cannot be: megacode computes {family.ARCHITECTURES[0]}")
        return None
    return family


def _validated(fields: Mapping[str, Any], settings: Settings) -> ModelConfig | None:
    """The model section, held to the rules of every run's; broken ones are noted by config.json's names."""
    try:
        model = ModelConfig.model_validate(dict(fields))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = settings.hub_key(str(detail["loc"][0]))
            settings.problem(key, repr(detail["input"]), detail["msg"][0].lower() + detail["msg"][1:])
        return None
    config = RunConfig.model_validate(filled({"model": model.model_dump(mode="json")}))
    for problem in find_problems(config):
        section, _, field = problem.field.partition(".")
        if section == "model":
            settings.problems.append(Problem(settings.hub_key(field), problem.value, problem.rule))
    return model


def render_section(model: ModelConfig) -> str:
    """The `[model]` section of a run's TOML file."""
    lines = ["[model]"]
    for name, value in model.model_dump(mode="json").items():
        if value is not None and not (name == "rope_theta" and model.positions == "learned"):
            text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else value
            lines.append(f"{name} = {text}")
    return "\n".join(lines)
