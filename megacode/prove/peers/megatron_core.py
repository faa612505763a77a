"""megatron-core's GPTModel, DistributedDataParallel, distributed optimizer and 1F1B, as its package brings them.

bf16 is its own mixed precision: bf16 parameters, fp32 gradients and masters, as ours. On a CPU it needs to be told
that the CPU is its GPU; `pretend_cpu_is_cuda` lists all of that, and nothing in its source is changed. Sequence
parallelism stays off there. Made for megatron-core 0.19.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from worker import Serve, Setup, Step, work


def run(setup: Setup, serve: Serve) -> None:
    """Build the model of the configuration's structure, and serve steps."""
    model = setup.config["model"]
    dropout = [model[f"{where}_dropout"] for where in ("attention", "hidden", "embedding")]
    setup.refuse_unless(setup.device.type == "cpu", "is driven on the CPU only")
    setup.refuse_unless(not any(dropout), "is measured without dropout; set model's dropouts to 0")
    setup.refuse_unless(model["window"] is None, "is measured without a window")
    setup.refuse_unless(setup.config["train"]["recompute"] == "none", "is measured without recomputation")
    parallel = setup.config["parallel"]
    setup.refuse_unless(
        parallel["pp"] == 1 or parallel["schedule"] == "1f1b",
        'is driven with schedule "1f1b"; compare others as variants: --with parallel.schedule=...',
    )
    pretend_cpu_is_cuda()
    with setup.world(even_alone=True):
        serve(_step(setup))


def pretend_cpu_is_cuda() -> None:
    """Make torch's CUDA calls that megatron-core cannot do without answer for the CPU."""
    cpu = torch.device("cpu")

    class Stream:
        def wait_event(self, *_: object) -> None: ...

        def wait_stream(self, *_: object) -> None: ...

    def on_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: Any, **named: Any) -> Tensor:
            return make(*arguments, **({**named, "device": cpu} if named.get("device") == "cuda" else named))

        return made

    named_type = torch.Tensor.type

    def cuda_type(self: Tensor, *arguments: Any, **named: Any) -> Any:
        found = named_type(self, *arguments, **named)
        return found.replace("torch.", "torch.cuda.", 1) if isinstance(found, str) else found

    for owner, name, value in (
        (torch.cuda, "current_device", lambda: cpu),
        (torch.cuda, "synchronize", lambda *_: None),
        (torch.cuda, "current_stream", lambda *_: Stream()),
        (torch.Tensor, "cuda", lambda self, *_, **__: self),
        (torch.nn.Module, "cuda", lambda self, *_, **__: self),
        (torch, "tensor", on_cpu(torch.tensor)),
        (torch, "zeros", on_cpu(torch.zeros)),
        (torch.Tensor, "type", cuda_type),
    ):
        setattr(owner, name, value)


def _step(setup: Setup) -> Step:
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    @contextmanager
    def fork(self: object, name: str = "") -> Iterator[None]:
        yield

    CudaRNGStatesTracker.fork = fork  # no CUDA generator to fork; nothing is drawn without dropout
    parallel, train = setup.config["parallel"], setup.config["train"]
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel["tp"],
        pipeline_model_parallel_size=parallel["pp"],
        order=parallel["order"],
    )
    model, optimizer = _model_and_optimizer(setup)
    passes, sequence = get_forward_backward_func(), setup.config["data"]["sequence"]
    positions = torch.arange(sequence).expand(train["micro_batch"], -1)
    mask = torch.ones(1, 1, sequence, sequence, dtype=torch.bool).triu(1)
    replica = parallel_state.get_data_parallel_rank()

    def forward(batches: Iterator[tuple[Tensor, Tensor]], net: Any, *_: object) -> tuple[Tensor, Any]:
        tokens, targets = next(batches)
        return net(tokens, positions, mask, labels=targets), _mean_loss

    def step(number: int) -> dict[str, Any]:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        told = passes(
            forward_step_func=forward,
            data_iterator=iter(setup.batches(number, replica)),
            model=[model],
            num_microbatches=setup.micro_batches,
            seq_length=sequence,
            micro_batch_size=train["micro_batch"],
            forward_only=False,
        )
        optimizer.step()
        return {"loss": sum(float(one["loss"]) for one in told) / len(told) if told else None}

    return step


def _mean_loss(losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = losses.float().mean()
    return loss, {"loss": loss.detach().clone()}


def _model_and_optimizer(setup: Setup) -> tuple[Any, Any]:
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.transformer.module import Float16Module

    model, optim, config = setup.config["model"], setup.config["optim"], _transformer_config(setup)
    bf16, sharded = setup.dtype == torch.bfloat16, setup.config["parallel"]["dp"] > 1
    net: Any = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(),
        vocab_size=model["vocab"],
        max_sequence_length=model["context"],
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=model["tied"],
        position_embedding_type={"learned": "learned_absolute", "rotary": "rope"}[model["positions"]],
        rotary_base=model["rope_theta"],
    )
    net = Float16Module(config, net) if bf16 else net
    reduction = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=sharded)
    net = DistributedDataParallel(config, reduction, net)
    net.train()
    chosen = OptimizerConfig(
        optimizer="adam",
        lr=optim["lr"],
        adam_beta1=optim["beta1"],
        adam_beta2=optim["beta2"],
        adam_eps=optim["eps"],
        weight_decay=optim["weight_decay"],
        clip_grad=optim["clip"],
        bf16=bf16,
        params_dtype=setup.dtype,
        use_distributed_optimizer=sharded,
    )
    optimizer = get_megatron_optimizer(chosen, [net])
    for group in optimizer.param_groups:  # its scheduler would do this, and keep decay off biases and norms
        group["weight_decay"] = optim["weight_decay"] * group.get("wd_mult", 1.0)
    config.finalize_model_grads_func, config.grad_scale_func = finalize_model_grads, optimizer.scale_loss
    return net, optimizer


def _transformer_config(setup: Setup) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    model, parallel = setup.config["model"], setup.config["parallel"]
    return TransformerConfig(
        num_layers=model["layers"],
        hidden_size=model["hidden"],
        num_attention_heads=model["heads"],
        num_query_groups=model["kv_heads"],
        ffn_hidden_size=model["ffn"],
        activation_func=torch.nn.functional.gelu,
        normalization="LayerNorm",
        layernorm_epsilon=model["norm_eps"],
        init_method_std=model["init_std"],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=setup.dtype,
        pipeline_dtype=setup.dtype,
        autocast_dtype=setup.dtype,
        bf16=setup.dtype == torch.bfloat16,
        tensor_model_parallel_size=parallel["tp"],
        pipeline_model_parallel_size=parallel["pp"],
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        deallocate_pipeline_outputs=True,
        batch_p2p_comm=True,
    )


if __name__ == "__main__":
    work(run, sys.argv[1])
