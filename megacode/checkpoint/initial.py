"""What `checkpoint.init_from` accepts: weights as the start of another run, be it a fine-tune or a longer context.

Only what makes the weights mean something else must be as it was. The base of the rotary angles, the window, the
context of rotary positions and dropout may change: StarCoder2's second stage (arXiv 2402.19173, section 6.1) does so.
"""

from __future__ import annotations

from collections.abc import Iterator

from megacode.checkpoint.errors import CheckpointError
from megacode.checkpoint.manifest import Manifest
from megacode.config.schema import ModelConfig, RunConfig

# init_std is of weights that are drawn, and all of these are loaded.
_MAY_CHANGE = frozenset(
    {"rope_theta", "window", "context", "init_std", "attention_dropout", "hidden_dropout", "embedding_dropout"}
)


def check_initial(manifest: Manifest, config: RunConfig, tokenizer: str) -> None:
    """Raise CheckpointError that lists everything in which the checkpoint's weights don't fit the run.

    `tokenizer`: the fingerprint of the run's. A model that was imported without one fits any.
    """
    state = manifest.state
    saved = ModelConfig.model_validate(dict(state.config).get("model", {}))
    problems = list(_differences(saved, config.model))
    if state.tokenizer not in ("", tokenizer):
        problems.append(f"its tokenizer is {state.tokenizer[:12]}, that of data.tokenizer {tokenizer[:12]}")
    if problems:
        raise CheckpointError(
            f"checkpoint.init_from: its weights do not fit this run: {'; '.join(problems)}; take over the [model] "
            "section of the base (only rope_theta, window, dropout and, with rotary positions, context may differ)"
        )


def _differences(saved: ModelConfig, now: ModelConfig) -> Iterator[str]:
    for name in ModelConfig.model_fields:
        was, value = getattr(saved, name), getattr(now, name)
        if name not in _MAY_CHANGE and was != value:
            yield f"model.{name} is {was!r} there, {value!r} here"
    if "learned" in (saved.positions, now.positions) and saved.context != now.context:
        yield (
            f"model.context is {saved.context} there, {now.context} here: learned positions are weights, and there are "
            f"{saved.context} of them, no more and no less (data.sequence may be shorter)"
        )
