"""The batches of a run, from its configuration: sources opened, blended, rearranged, packed and cut into steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from megacode.config.schema import DataConfig, RunConfig, SourceConfig
from megacode.data.batches import BatchPlan
from megacode.data.errors import DataError
from megacode.data.infill import FimPolicy, Infiller
from megacode.data.shards.indexed import ShardReader
from megacode.data.shards.names import shard_prefixes
from megacode.data.shards.sidecar import open_shard, read_sidecar
from megacode.data.stream.blend import Blend, Phase
from megacode.data.stream.stream import SampleStream, SourceShards
from megacode.data.tokenizers.tokenizer import Tokenizer

# Every evaluation of every run reads the same samples with the same cuts, so that losses compare.
VALIDATION_SEED = 0


class Position(NamedTuple):
    """Samples taken of each source so far, and the sha256 of the next global batch's tokens and weights."""

    cursors: Mapping[str, int]
    next_batch: str


@dataclass(frozen=True)
class Feed:
    """The batches of a run: `train`, and a frozen plan for each source and kind of validation loss.

    `validation`: by source, then by kind (left_to_right, psm, spm). `tokenizer`: its fingerprint. `epochs`: how often
    the whole run reads each source. `validation_shards`: all that validation reads. `stream`: what `train` is cut from,
    None where that is made up.
    """

    train: BatchPlan
    validation: Mapping[str, Mapping[str, BatchPlan]]
    tokenizer: str
    epochs: Mapping[str, float] = field(default_factory=dict)
    validation_shards: tuple[ShardReader, ...] = ()
    stream: SampleStream | None = None

    def position(self, steps_done: int) -> Position:
        """Return where the data stands after so many steps; the same on every rank and in every layout."""
        samples = steps_done * self.train.global_batch
        cursors = dict(zip(self.stream.names, self.stream.blend.cursors(samples), strict=True)) if self.stream else {}
        digest = hashlib.sha256()
        for number in range(samples, samples + self.train.global_batch):
            sample = self.train.stream.sample(number)
            digest.update(sample.tokens.tobytes() + sample.weights.tobytes())
        return Position(cursors, digest.hexdigest())


def open_feed(config: RunConfig) -> Feed:
    """Open the shards and the tokenizer. Raises DataError where they are damaged or don't belong together."""
    data, train, dp = config.data, config.train, config.parallel.dp
    tokenizer = open_tokenizer(config)
    policy = fim_policy(data)
    stream = open_stream(data, tokenizer, policy)
    parts = [part for source in data.blended if source.validation for part in _by_language(data, source, tokenizer)]
    validation = {
        part.name: {
            kind: BatchPlan(
                SampleStream([_infilled(part, fim, tokenizer)], _alone(), data.sequence, VALIDATION_SEED),
                *(train.micro_batch, train.validate_sequences, dp, data.document_mask),
            )
            for kind, fim in validation_kinds(policy or FimPolicy()).items()
        }
        for part in parts
    }
    shards = [shard for part in parts for shard in part.shards]
    plan = BatchPlan(stream, train.micro_batch, train.global_batch, dp, data.document_mask)
    epochs = dict(zip(stream.names, stream.epochs(train.steps * train.global_batch), strict=True))
    return Feed(plan, validation, tokenizer.fingerprint, epochs, tuple(shards), stream)


def open_tokenizer(config: RunConfig) -> Tokenizer:
    """Return the run's tokenizer. Raises DataError when it is missing, or has more tokens than the model."""
    tokenizer = Tokenizer.load(config.data.tokenizer)
    if tokenizer.vocab_size > config.model.vocab:
        raise DataError(
            f"{config.data.tokenizer}: has {tokenizer.vocab_size} tokens, model.vocab is {config.model.vocab}; "
            "raise model.vocab, or train a smaller tokenizer"
        )
    return tokenizer


def open_stream(data: DataConfig, tokenizer: Tokenizer, policy: FimPolicy | None) -> SampleStream:
    """Return the run's samples. Raises DataError where shards are missing, damaged or of another tokenizer."""
    sources = [_infilled(_source(source, source.shards, tokenizer), policy, tokenizer) for source in data.blended]
    tokens = [sum(shard.tokens for shard in source.shards) for source in sources]
    weights = tuple(float(source.weight or count) for source, count in zip(data.blended, tokens, strict=True))
    later = [
        Phase(math.ceil(mix.from_tokens / data.sequence), tuple(mix.weights[source.name] for source in data.sources))
        for mix in data.mix
    ]
    return SampleStream(sources, Blend([Phase(0, weights), *later], data.seed), data.sequence, data.seed, data.packing)


def fim_policy(data: DataConfig) -> FimPolicy | None:
    """Return what the configuration says about fill-in-the-middle; None where it says none."""
    fim = data.fim
    if fim.rate == 0.0:
        return None
    return FimPolicy(
        rate=fim.rate,
        spm_rate=fim.spm_rate,
        spm_variant={"v1": 1, "v2": 2}[fim.spm],
        repository_rate=fim.repository_rate,
        middle_only=fim.loss == "middle",
        by_syntax=fim.cut == "syntax",
    )


def validation_kinds(policy: FimPolicy) -> dict[str, FimPolicy | None]:
    """Return the kinds of validation loss: nothing rearranged, or every piece in one order."""
    whole = replace(policy, rate=1.0, repository_rate=1.0)
    return {"left_to_right": None, "psm": replace(whole, spm_rate=0.0), "spm": replace(whole, spm_rate=1.0)}


def _source(source: SourceConfig, pattern: str, tokenizer: Tokenizer) -> SourceShards:
    """Open the shards that a pattern names."""
    prefixes = shard_prefixes(pattern)
    if not prefixes:
        raise DataError(f"{pattern}: no shard of this name; make it with `megacode tokenize`")
    return SourceShards(source.name, [open_shard(prefix, tokenizer) for prefix in prefixes], tokenizer.fim_pad)


def _by_language(data: DataConfig, source: SourceConfig, tokenizer: Tokenizer) -> list[SourceShards]:
    """Return a source's validation shards, those of each language by themselves where there are several."""
    whole = _source(source, source.validation, tokenizer)
    by_language: dict[str, list[ShardReader]] = {}
    for shard in whole.shards:
        by_language.setdefault(_language(shard.prefix), []).append(shard)
    if len(by_language) == 1:
        return [whole]
    prefix = f"{source.name}." if len(data.blended) > 1 else ""
    return [
        replace(whole, name=prefix + (language or "mixed"), shards=shards)
        for language, shards in sorted(by_language.items())
    ]


def _infilled(source: SourceShards, policy: FimPolicy | None, tokenizer: Tokenizer) -> SourceShards:
    """Return the source with what rearranges the documents of each of its shards."""
    if policy is None:
        return source
    languages = [_language(shard.prefix) if policy.by_syntax else "" for shard in source.shards]
    by_language = {language: Infiller(policy, tokenizer, language) for language in set(languages)}
    return replace(source, infillers=[by_language[language] for language in languages])


def _language(prefix: Path) -> str:
    return read_sidecar(prefix).language


def _alone() -> Blend:
    """The blend of a single source."""
    return Blend([Phase(0, (1.0,))], VALIDATION_SEED)
