"""torchtitan's parallelisms, loss, clip, optimizer and pipeline, as its package brings them, around our structure.

What a step does is what its trainer does; its trainer itself wants a GPU, a tokenizer and a data set. bf16 is its
mixed precision: fp32 parameters that FSDP casts, gradients summed in fp32. Data parallelism is its default, FSDP, which
sums gradients after every micro-batch.
Made for torchtitan 0.3 with torch 2.13, which lacks what torchtitan's newest backend ("spmd_types") asks of FSDP, so
tensor parallelism is its DTensor backend. On a CPU it has to be told the name of the device; no source is changed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from worker import Serve, Setup, work

SCHEDULES = MappingProxyType({"1f1b": "1F1B", "gpipe": "GPipe"})
BACKEND = "partial_dtensor"


def run(setup: Setup, serve: Serve) -> None:
    """Build the model of the configuration's structure, and serve steps."""
    model, parallel = setup.config["model"], setup.config["parallel"]
    dropout = [model[f"{where}_dropout"] for where in ("attention", "hidden", "embedding")]
    setup.refuse_unless(not any(dropout), "is measured without dropout; set model's dropouts to 0")
    setup.refuse_unless(model["window"] is None, "is measured without a window")
    setup.refuse_unless(setup.config["train"]["recompute"] == "none", "is measured without recomputation")
    setup.refuse_unless(
        parallel["pp"] == 1 or parallel["schedule"] in SCHEDULES,
        'is driven with schedule "1f1b" or "gpipe"; compare others as variants: --with parallel.schedule=...',
    )
    setup.refuse_unless(
        parallel["pp"] <= 2 or not model["tied"], "ties no weights across stages; its driver does so for pp = 2 only"
    )
    with setup.world(even_alone=True):
        engine = Engine(setup)
        serve(engine.step, {"parameters": engine.parameters})


class Engine:
    """One rank's part: torchtitan's model parts, schedule (with pp), loss and optimizers."""

    def __init__(self, setup: Setup) -> None:
        from torchtitan.components.loss import CrossEntropyLoss
        from torchtitan.distributed.utils import set_spmd_backend

        set_spmd_backend(BACKEND)
        self._setup, self._dims = setup, _dims(setup)
        self._replica = self._dims.get_mesh("batch").get_local_rank() if setup.config["parallel"]["dp"] > 1 else 0
        self._loss = CrossEntropyLoss.Config().build(compile_config=None)
        self._schedule: Any = None
        self.parameters, self._parts, self._ends = self._build()
        for part in self._parts:
            for module in part.modules():
                if setup.device.type == "cpu" and hasattr(module, "set_force_sum_reduction_for_comms"):
                    module.set_force_sum_reduction_for_comms(True)  # gloo sums, and scales nothing
            part.to_empty(device=setup.device)
            with torch.no_grad():
                part.init_weights(buffer_device=None)
            part.train()
        self._optimizers = _optimizers(setup, self._parts)

    def _build(self) -> tuple[int, list[Any], tuple[bool, bool]]:
        """How many parameters the whole model has, this rank's parts of it, and whether first and last are there."""
        from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
        from torchtitan.distributed.pipeline_parallel import _generate_llm_fqn_per_model_part, pipeline_llm
        from torchtitan.models.llama3.parallelize import parallelize_llama
        from torchtitan_model import decoder_config

        setup, parallel = self._setup, self._setup.config["parallel"]
        structure, pp = setup.config["model"], parallel["pp"]
        copied = structure["tied"] and pp > 1  # the head, in the last stage
        config = decoder_config(structure, parallel["tp"], structure["tied"] and not copied)
        with torch.device("meta"):
            model = config.build()
        parameters = sum(each.numel() for each in model.parameters()) - copied * model.lm_head.weight.numel()
        names = _generate_llm_fqn_per_model_part(pp, structure["layers"])
        names[0].append("positions")
        cut = {
            "parallel_dims": self._dims,
            "training": TrainingConfig(
                local_batch_size=setup.config["train"]["micro_batch"] * setup.micro_batches,
                mixed_precision_param={torch.bfloat16: "bfloat16", torch.float32: "float32"}[setup.dtype],
            ),
            "parallelism": ParallelismConfig(
                tensor_parallel_degree=parallel["tp"],
                pipeline_parallel_degree=pp,
                pipeline_parallel_schedule=SCHEDULES.get(parallel["schedule"], "1F1B"),
                pipeline_parallel_microbatch_size=setup.config["train"]["micro_batch"],
                module_fqns_per_model_part=names,
                fsdp_reshard_after_forward="never",  # as ours keeps weights; its default takes longer
                spmd_backend=BACKEND,
            ),
            "compile_config": CompileConfig(),
            "ac_config": None,
            "dump_folder": "",
        }
        if pp == 1:
            return parameters, [parallelize_llama(model, **cut)], (True, True)
        whole = {"device": setup.device, "model_config": config, "parallelize_fn": parallelize_llama}
        self._schedule, parts, first, last = pipeline_llm(model, loss_fn=self._loss, **whole, **cut)
        return parameters, parts, (first, last)

    def step(self, number: int) -> dict[str, Any]:
        """Train step `number`; the loss is this replica's, None where the last stage is elsewhere."""
        from torchtitan.distributed.utils import clip_grad_norm_

        self._optimizers.zero_grad()
        batches = self._setup.batches(number, self._replica)
        replicas = self._setup.config["parallel"]["dp"]
        tokens = torch.tensor(replicas * sum(targets.numel() for _, targets in batches), device=self._setup.device)
        losses = self._pipeline(batches, tokens) if self._schedule else self._accumulate(batches, tokens)
        copies = self._add_tied()
        counted = [each for part in self._parts for each in part.parameters() if each is not copies]
        optim, pp = self._setup.config["optim"], self._dims.get_optional_mesh("pp")
        norm = clip_grad_norm_(counted, optim["clip"], foreach=True, pp_mesh=pp)
        if copies is not None:
            torch.nn.utils.clip_grads_with_norm_([copies], optim["clip"], norm, foreach=True)
        self._optimizers.step()
        return {"loss": replicas * float(sum(losses)) if losses else None}

    def _accumulate(self, batches: list[tuple[Tensor, Tensor]], tokens: Tensor) -> list[Tensor]:
        losses = []
        for inputs, targets in batches:
            loss, _ = self._loss(self._parts[0](inputs), targets, tokens)
            loss.backward()
            losses.append(loss.detach())
        return losses

    def _pipeline(self, batches: list[tuple[Tensor, Tensor]], tokens: Tensor) -> list[Tensor]:
        (first, last), losses = self._ends, []
        self._schedule.step(  # which cuts them into micro-batches again
            *([torch.cat([inputs for inputs, _ in batches])] if first else []),
            target=torch.cat([targets for _, targets in batches]) if last else None,
            losses=losses if last else None,
            loss_kwargs={"global_valid_tokens": tokens},
            return_outputs=False,
        )
        return [loss.detach() for loss in losses]

    def _add_tied(self) -> Tensor | None:
        """Sum the gradients of embedding and head over their two stages; the head, a copy not to be counted twice.

        torchtitan ties no weights across stages: both start equal and, with this, stay so.
        """
        from torchtitan.distributed.utils import dist_sum_tensor

        if not (self._setup.config["model"]["tied"] and self._schedule):
            return None
        (part,), (first, _) = self._parts, self._ends
        weight = (part.tok_embeddings if first else part.lm_head).weight
        gradient = weight.grad.to_local()
        gradient.copy_(dist_sum_tensor(gradient, self._dims.get_mesh("pp")))
        return None if first else weight


def _dims(setup: Setup) -> Any:
    from torchtitan.distributed import parallel_dims

    parallel_dims.device_type = setup.device.type  # it says "cuda" where it finds no accelerator
    import_module("torch.testing._internal.distributed.fake_pg")  # registers the backend of its meshes of one rank
    parallel = setup.config["parallel"]
    dims = parallel_dims.ParallelDims(
        dp_replicate=1,
        dp_shard=parallel["dp"],
        cp=1,
        tp=parallel["tp"],
        pp=parallel["pp"],
        ep=1,
        world_size=setup.world_size,
        spmd_backend=BACKEND,
    )
    dims.build_mesh()
    return dims


def _optimizers(setup: Setup, parts: list[Any]) -> Any:
    """Its container of AdamW, with decay on matrices only."""
    from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig

    optim = setup.config["optim"]
    common = {"lr": optim["lr"], "betas": (optim["beta1"], optim["beta2"]), "eps": optim["eps"]}
    groups = [
        ParamGroupConfig(
            pattern=pattern, optimizer_name="AdamW", optimizer_kwargs={**common, "weight_decay": weight_decay}
        )
        for pattern, weight_decay in ((r"bias$|norm\d?\.weight$", 0.0), ("", optim["weight_decay"]))
    ]
    return OptimizersContainer.Config(param_groups=groups).build(model_parts=parts)


if __name__ == "__main__":
    work(run, sys.argv[1])
