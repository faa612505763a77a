"""Rules on where samples come from: sources, their weights over the run, fill-in-the-middle and validation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from megacode.config.problem import Problem
from megacode.config.rule import Rule, without_effect
from megacode.config.schema import FimConfig, RunConfig


def _sources(config: RunConfig) -> Iterator[Problem]:
    data = config.data
    names = [source.name for source in data.sources]
    if not data.train and not data.sources:
        yield Problem("data.train", "", "is missing", "name the training shard, or several sources in [[data.sources]]")
    elif data.train and data.sources:
        rule = "has no effect beside data.sources"
        yield Problem("data.train", repr(data.train), rule, "keep one of them")
    if data.validation and data.sources:
        rule = "has no effect beside data.sources"
        yield Problem("data.validation", repr(data.validation), rule, "give each source its own validation")
    if len(set(names)) < len(names):
        yield Problem("data.sources", str(names), "must have different names", "rename one")
    weighted = [source.name for source in data.sources if source.weight is not None]
    if weighted and len(weighted) < len(names):
        rule = f"has weights for {', '.join(weighted)} only"
        yield Problem("data.sources", str(names), rule, "give each a weight, or none: then each counts by its tokens")


def _mix(config: RunConfig) -> Iterator[Problem]:
    data, names = config.data, {source.name for source in config.data.sources}
    if data.mix and len(names) < 2:
        yield Problem("data.mix", f"{len(data.mix)} entries", "has no effect without several data.sources", "remove it")
        return
    for place, mix in enumerate(data.mix):
        field = f"data.mix.{place}.weights"
        if set(mix.weights) != names:
            rule = f"must name every source: {', '.join(sorted(names))}"
            yield Problem(field, str(mix.weights), rule, "0 leaves one out")
        elif not any(mix.weights.values()):
            yield Problem(field, str(mix.weights), "must not all be 0", "")
    for before, after in pairwise(data.mix):
        if after.from_tokens - before.from_tokens < data.sequence:
            rule = f"must be at least a sample after {before.from_tokens}"
            yield Problem("data.mix", str(after.from_tokens), rule, "put them in order")
    if data.mix and data.mix[0].from_tokens < data.sequence:
        rule = "must be at least one sample, data.sequence"
        yield Problem("data.mix", str(data.mix[0].from_tokens), rule, "the first weights are those of data.sources")


def _fim(config: RunConfig) -> Iterator[Problem]:
    fim = config.data.fim
    if fim.rate == 0.0:
        others = [name for name in FimConfig.model_fields if name not in ("rate", "spm_rate")]
        yield from without_effect(fim, "data.fim", others, "with data.fim.rate = 0")
    elif fim.spm_rate == 0.0:
        yield from without_effect(fim, "data.fim", ("spm",), "with data.fim.spm_rate = 0")


def _validation(config: RunConfig) -> Iterator[Problem]:
    sequences, portion = config.train.validate_sequences, config.train.micro_batch * config.parallel.dp
    if config.data.has_validation and sequences % portion:
        rule = f"must be a multiple of micro_batch {config.train.micro_batch} x dp {config.parallel.dp}"
        nearest = (sequences // portion + 1) * portion
        yield Problem("train.validate_sequences", str(sequences), rule, f"nearest {nearest}")
    if config.train.validate_every and not config.data.has_validation:
        rule = "has no effect without data.validation"
        yield Problem("train.validate_every", str(config.train.validate_every), rule, "name a shard or remove it")


_FIM_FIELDS = tuple(f"data.fim.{field}" for field in FimConfig.model_fields)

DATA_RULES: tuple[Rule, ...] = (
    Rule(("data.train", "data.validation", "data.sources"), _sources),
    Rule(("data.sources", "data.mix", "data.sequence"), _mix),
    Rule(("data.fim", *_FIM_FIELDS), _fim),
    Rule(
        (
            *("train.validate_sequences", "train.micro_batch", "parallel.dp", "train.validate_every"),
            *("data.validation", "data.sources"),
        ),
        _validation,
    ),
)
