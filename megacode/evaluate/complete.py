"""Continue a prefix, or fill in the middle between a prefix and a suffix, with a trained checkpoint.

Greedy by default; with a temperature, drawn from the softmax by a seeded generator.
Limits: without a key-value cache, each token costs a whole forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from megacode.checkpoint.decoder import load_decoder, saved_config, saved_tokenizer
from megacode.checkpoint.folders import find_checkpoint
from megacode.checkpoint.read import CheckpointReader
from megacode.data.tokenizers.tokenizer import Tokenizer
from megacode.layers.forward_pass import ForwardPass
from megacode.model.chunk import Chunk


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: the most likely at temperature 0, otherwise drawn with `seed`."""

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0


class Completer:
    """A checkpoint's model and tokenizer, ready to complete text. `context`: most tokens it can see."""

    def __init__(self, decoder: Chunk, tokenizer: Tokenizer, context: int) -> None:
        self._decoder, self._tokenizer, self._context = decoder, tokenizer, context

    @classmethod
    def load(cls, checkpoint: Path, tokenizer: Path | None = None) -> Completer:
        """Load a checkpoint folder, or the newest checkpoint of a run folder.

        Raises CheckpointError if there is none, or if the tokenizer is not the one it was trained with.
        """
        checkpoint = find_checkpoint(checkpoint)
        reader = CheckpointReader(checkpoint)
        config = saved_config(reader)
        words = saved_tokenizer(reader, tokenizer)
        return cls(load_decoder(reader, "fp32"), words, config.data.sequence)

    def complete(self, prefix: str, suffix: str | None, sampling: Sampling) -> str:
        """The text that follows `prefix`, or that belongs between `prefix` and `suffix` (PSM order)."""
        words = self._tokenizer
        tokens = words.encode(prefix)
        if suffix is not None:
            # What is furthest from the gap gives way where the model cannot see it all.
            room = max(0, self._context - sampling.max_tokens - 3) // 2
            before, after = tokens[-room:], words.encode(suffix)[:room]
            tokens = [words.fim_prefix, *before, words.fim_suffix, *after, words.fim_middle]
        made = self._generate(tokens or [words.end_of_text], sampling)
        return words.decode(made)

    def _generate(self, tokens: list[int], sampling: Sampling) -> list[int]:
        generator = torch.Generator().manual_seed(sampling.seed)
        made: list[int] = []
        while len(made) < sampling.max_tokens:
            seen = torch.tensor([[*tokens, *made][-self._context :]])
            with torch.no_grad():
                x = self._decoder(
                    self._decoder.embed(seen, torch.arange(seen.shape[1]).unsqueeze(0), None), ForwardPass()
                )
                logits = self._decoder.logits(x[:, -1:])[0, 0, : self._tokenizer.vocab_size]
            if sampling.temperature > 0.0:
                chances = torch.softmax(logits / sampling.temperature, dim=-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in self._tokenizer.special_ids:
                break
            made.append(token)
        return made
