"""With `data.document_mask` a document is computed as if it were alone, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disk_run import disk_config, rows, train_rank
from tiny import tiny_config
from torch import Tensor

from megacode.data.documents import Document, write_documents
from megacode.data.microbatch import MicroBatch
from megacode.data.shards.tokenize import tokenize
from megacode.data.tokenizers.tokenizer import train_bpe
from megacode.layers.dropout import Draw
from megacode.layers.forward_pass import ForwardPass
from megacode.model.chunk import Chunk
from megacode.prove.outcome import assemble_synthetic, compute
from megacode.prove.ranks import run_ranks
from megacode.prove.synthetic import synthetic_plan
from megacode.train.feed import open_feed

MODELS: list[dict[str, Any]] = [
    {"kv_heads": 1},
    {"kv_heads": 4, "window": 5},
    {"kv_heads": 2, "positions": "rotary", "tied": False},
    {"kv_heads": 2, "positions": "rotary", "window": 3},
]


def masked(**sections: dict[str, Any]) -> Any:
    """The tiny run with the mask."""
    return tiny_config(**{**sections, "data": {"document_mask": True}})


def logits_of(decoder: Chunk, tokens: Tensor, positions: Tensor, forward_pass: ForwardPass) -> Tensor:
    """[b, s] -> [b, s, v]."""
    return decoder.logits(decoder(decoder.embed(tokens, positions, forward_pass.draw), forward_pass))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over all tokens, nats."""
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def gradients(decoder: Chunk, loss: Tensor) -> list[Tensor]:
    """Of every parameter, in order."""
    parameters = list(decoder.parameters())
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.fixture
def batch() -> MicroBatch:
    """Two sequences with a document's end inside both."""
    batch = synthetic_plan(masked(train={"micro_batch": 2, "global_batch": 2})).micro_batch(1, 0, 0)
    assert batch.documents is not None and len(batch.documents) > 4
    return batch


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_packed_document_equals_the_document_alone(model: dict[str, Any], batch: MicroBatch) -> None:
    """Logits, losses and every gradient, in fp64, each document through the model by itself from position 0."""
    decoder = assemble_synthetic(masked(model=model), 0).stage.chunks[0].double()
    packed = logits_of(decoder, batch.tokens, batch.positions, ForwardPass(None, batch.documents))
    assert batch.documents is not None
    rows = zip(*(rows.flatten().split(batch.documents) for rows in (batch.tokens, batch.targets)), strict=True)
    alone = [
        (logits_of(decoder, tokens[None], torch.arange(tokens.numel())[None], ForwardPass()), targets[None])
        for tokens, targets in rows
    ]
    torch.testing.assert_close(
        packed.flatten(0, 1), torch.cat([logits[0] for logits, _ in alone]), rtol=1e-6, atol=1e-6
    )
    together, apart = token_losses(packed, batch.targets), sum(token_losses(*each) for each in alone)
    torch.testing.assert_close(together, apart)
    for ours, theirs in zip(gradients(decoder, together), gradients(decoder, apart), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    crossing = logits_of(decoder, batch.tokens, batch.positions, ForwardPass())
    assert not torch.allclose(crossing, packed, atol=1e-2), "without the mask something else is computed"


def test_no_token_reaches_another_document_through_dropout_either(batch: MicroBatch) -> None:
    """The gradient of one document's logits in the embeddings of all others is exactly zero."""
    dropout = {"attention_dropout": 0.2, "hidden_dropout": 0.1}
    decoder = assemble_synthetic(masked(model=dropout), 0).stage.chunks[0]
    forward_pass = ForwardPass(Draw(1, 2, 3), batch.documents)
    x = decoder.embed(batch.tokens, batch.positions, None).detach().requires_grad_()
    logits = decoder.logits(decoder(x, forward_pass)).flatten(0, 1)
    assert batch.documents is not None
    first, second = batch.documents[:2]
    inside = slice(first, first + second)
    (gradient,) = torch.autograd.grad(logits[inside].square().sum(), x)
    reached = gradient.flatten(0, 1).abs().sum(-1) > 0
    assert reached[inside].all() and int(reached.sum()) == second


@pytest.mark.parametrize(
    ("model", "parallel"),
    [
        ({"layers": 3}, {"tp": 2, "pp": 3}),
        ({"layers": 3, "kv_heads": 2, "positions": "rotary", "window": 4}, {"pp": 3, "dp": 2, "schedule": "gpipe"}),
        ({"attention_dropout": 0.1, "hidden_dropout": 0.1}, {"tp": 2, "pp": 2, "dp": 2}),
    ],
)
def test_layouts_with_documents_equal_one_process(model: dict[str, Any], parallel: dict[str, Any]) -> None:
    """An inner stage, which sees no tokens otherwise, too."""
    one, other = compute(masked(model=model)), compute(masked(model=model, parallel=parallel))
    for name, gradient in one.gradients.items():
        error = np.abs(other.gradients[name] - gradient).max() / np.abs(gradient).max()
        assert error <= 1e-5, f"gradient of {name}: relative error {error:.2e}"
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-4)
    assert one.losses != compute(tiny_config(model=model)).losses


def test_runs_on_files_keep_documents_apart(tmp_path: Path) -> None:
    """Training and validation of a real shard of short documents under PP 3 x TP 2 = one process, and != no mask."""
    lines = [line.strip() for line in Path(__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = train_bpe(lines, 512, "starcoder")
    tokenizer.save(tmp_path)
    for name, part in (("train", lines[12:]), ("validation", lines[:12])):
        documents = [Document(f"{name}{i}", "", "python", line * 2) for i, line in enumerate(part)]
        write_documents(tmp_path / f"{name}.jsonl.zst", documents)
        tokenize(tmp_path / f"{name}.jsonl.zst", tokenizer, tmp_path / name)
    told = {}
    for label, mask, parallel in [("one", True, {}), ("six", True, {"pp": 3, "tp": 2}), ("crossing", False, {})]:
        config = disk_config(
            tmp_path, tmp_path / label, model={"layers": 3}, train={"steps": 4, "validate_every": 0}, parallel=parallel
        )
        config = config.model_copy(update={"data": config.data.model_copy(update={"document_mask": mask})})
        feed = open_feed(config)
        plans = [feed.train, *feed.validation["train"].values()]
        assert len(plans) == 4 and all(plan.keeps_documents_apart == mask for plan in plans)
        run_ranks(config.parallel.world_size, train_rank, config)
        (validation,) = rows(tmp_path / label, "validation")
        training = [row["loss"] for row in rows(tmp_path / label)]
        told[label] = [*training, *(validation[kind] for kind in ("left_to_right", "psm", "spm"))]
    np.testing.assert_allclose(told["six"], told["one"], rtol=1e-5)
    assert not np.isclose(told["crossing"], told["one"], rtol=1e-5).any()
