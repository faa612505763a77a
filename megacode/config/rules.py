"""Rules that span fields. Each is one small function that yields problems; none of them needs torch.

A rule names the fields it reads, so that it stays silent where one of them is itself broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from megacode.config.data_rules import DATA_RULES
from megacode.config.problem import Problem
from megacode.config.rule import Rule, without_effect
from megacode.config.schema import KernelsConfig, LossScaleConfig, ModelConfig, RunConfig


def _divisors(number: int, most: int = 8) -> str:
    divisors = [divisor for divisor in range(1, min(number, 1024) + 1) if number % divisor == 0]
    return ", ".join(map(str, divisors[:most]))


def _tp_divides(field: str, value: Callable[[RunConfig], int]) -> Rule:
    def find(config: RunConfig) -> Iterator[Problem]:
        tp = config.parallel.tp
        if value(config) % tp:
            rule = f"must divide {field} = {value(config)}"
            yield Problem("parallel.tp", str(tp), rule, f"try {_divisors(value(config))}")

    return Rule(("parallel.tp", field), find)


def _heads_divide_hidden(config: RunConfig) -> Iterator[Problem]:
    model = config.model
    if model.hidden % model.heads:
        rule = f"must divide model.hidden = {model.hidden}"
        yield Problem("model.heads", str(model.heads), rule, f"try {_divisors(model.hidden)}")


def _kv_heads(config: RunConfig) -> Iterator[Problem]:
    heads, kv_heads, tp = config.model.heads, config.model.kv_heads, config.parallel.tp
    if heads % kv_heads:
        rule = f"must divide model.heads = {heads}"
        yield Problem("model.kv_heads", str(kv_heads), rule, f"try {_divisors(heads)}")
    elif kv_heads % tp and tp % kv_heads:
        rule = f"must divide parallel.tp = {tp} or be a multiple of it"
        yield Problem("model.kv_heads", str(kv_heads), rule, "change model.kv_heads or parallel.tp")


def _stages(config: RunConfig) -> Iterator[Problem]:
    pp, chunks, layers = config.parallel.pp, config.parallel.chunks, config.model.layers
    counts = config.parallel.stage_layers
    if pp * chunks > layers:
        rule = f"must not exceed model.layers = {layers}" + (f" / {chunks} chunks" if chunks > 1 else "")
        yield Problem("parallel.pp", str(pp), rule, "every stage needs a layer" + (" per chunk" if chunks > 1 else ""))
    elif counts and len(counts) != pp * chunks:
        rule = f"must have pp {pp} x chunks {chunks} = {pp * chunks} entries, not {len(counts)}"
        yield Problem("parallel.stage_layers", str(list(counts)), rule, "add or remove some, or remove the key")
    elif counts and sum(counts) != layers:
        rule = f"adds up to {sum(counts)}, not to model.layers = {layers}"
        yield Problem("parallel.stage_layers", str(list(counts)), rule, "change some, or remove the key")


def _schedule(config: RunConfig) -> Iterator[Problem]:
    pp, chunks, name = config.parallel.pp, config.parallel.chunks, config.parallel.schedule
    if pp == 1 and name in ("interleaved", "zb-h1", "zb-v"):
        rule = "has no effect with parallel.pp = 1"
        yield Problem("parallel.schedule", name, rule, 'raise parallel.pp, or set parallel.schedule = "1f1b"')
    elif name == "interleaved" and chunks == 1:
        rule = "has no effect with schedule interleaved: that is 1f1b with more activations"
        yield Problem("parallel.chunks", "1", rule, 'try 2, or set parallel.schedule = "1f1b"')
    elif name == "zb-v" and chunks != 2:
        yield Problem("parallel.chunks", str(chunks), "must be 2 with schedule zb-v, one down and one up", "remove it")
    elif name in ("1f1b", "gpipe", "zb-h1") and chunks > 1:
        rule = f"has no effect with schedule {name}, which runs one chunk per stage"
        yield Problem("parallel.chunks", str(chunks), rule, 'set it to 1, or parallel.schedule = "interleaved"')


def _global_batch(config: RunConfig) -> Iterator[Problem]:
    batch, portion = config.train.global_batch, config.train.micro_batch * config.parallel.dp
    if batch % portion:
        below = batch // portion * portion
        nearest = ", ".join(str(n) for n in (below, below + portion) if n)
        rule = f"must be a multiple of micro_batch {config.train.micro_batch} x dp {config.parallel.dp}"
        yield Problem("train.global_batch", str(batch), rule, f"nearest {nearest}")


def _recompute_blocks(config: RunConfig) -> Iterator[Problem]:
    parallel, blocks = config.parallel, config.train.recompute_blocks
    most = max(parallel.stage_layers or [-(-config.model.layers // (parallel.pp * parallel.chunks))])
    if blocks is not None and config.train.recompute == "none":
        rule = 'has no effect with train.recompute = "none"'
        yield Problem("train.recompute_blocks", str(blocks), rule, 'remove it, or set train.recompute = "selective"')
    elif blocks is not None and blocks > most:
        rule = f"must not exceed the {most} blocks of a chunk"
        yield Problem("train.recompute_blocks", str(blocks), rule, "lower it, or remove it to recompute all of them")


def _learned_positions(config: RunConfig) -> Iterator[Problem]:
    model, sequence = config.model, config.data.sequence
    if model.positions == "learned" and sequence > model.context:
        rule = f"must not exceed the learned positions, model.context = {model.context}"
        yield Problem("data.sequence", str(sequence), rule)


def _rotary_positions(config: RunConfig) -> Iterator[Problem]:
    model = config.model
    # By value, not by what was written: a checkpoint's saved configuration writes every field.
    if model.positions == "learned" and model.rope_theta != ModelConfig.model_fields["rope_theta"].default:
        rule = "has no effect with learned positions"
        yield Problem("model.rope_theta", str(model.rope_theta), rule, 'remove it, or set model.positions = "rotary"')
    if model.positions == "rotary" and model.hidden % model.heads == 0 and model.head_width % 2:
        rule = f"makes heads {model.head_width} wide, and rotary positions need an even width"
        yield Problem("model.heads", str(model.heads), rule, "change model.heads or model.hidden")


def _learning_rate(config: RunConfig) -> Iterator[Problem]:
    optim = config.optim
    decay, schedule = optim.lr_decay or config.train.steps, optim.lr_schedule
    is_endless = schedule in ("constant", "inverse_square_root")
    if optim.lr_min > optim.lr:
        yield Problem("optim.lr_min", str(optim.lr_min), f"must not exceed optim.lr = {optim.lr}")
    if optim.lr_warmup >= decay and not is_endless:
        rule = f"must be below the {decay} steps of the decay"
        yield Problem("optim.lr_warmup", str(optim.lr_warmup), rule, "lower it, or raise optim.lr_decay")
    idle = ["lr_decay"] if is_endless else []
    idle += ["lr_min"] if schedule == "constant" else []
    idle += ["lr_power"] if schedule != "polynomial" else []
    yield from without_effect(optim, "optim", idle, f"with lr_schedule {schedule}")


def _replicas(config: RunConfig) -> Iterator[Problem]:
    if config.parallel.dp == 1:
        idle = ("zero_stage", "reduce_dtype", "bucket_megabytes")
        yield from without_effect(config.optim, "optim", idle, "with parallel.dp = 1")
    elif config.train.precision == "fp32":
        yield from without_effect(config.optim, "optim", ("reduce_dtype",), "with train.precision fp32")


def _loss_scale(config: RunConfig) -> Iterator[Problem]:
    scale = config.optim.loss_scale
    if config.train.precision != "fp16":
        why = f"with train.precision {config.train.precision}"
        yield from without_effect(scale, "optim.loss_scale", tuple(LossScaleConfig.model_fields), why)
    elif scale.minimum > scale.initial:
        rule = f"must not exceed optim.loss_scale.initial = {scale.initial}"
        yield Problem("optim.loss_scale.minimum", str(scale.minimum), rule)


def _kernels(config: RunConfig) -> Iterator[Problem]:
    if config.launch.device == "cuda" and config.kernels.implementation != "torch" and config.model.hidden > 16384:
        rule = "is above the widest row of the Triton LayerNorm, 16384"
        yield Problem("model.hidden", str(config.model.hidden), rule, 'set kernels.implementation = "torch"')


def _is_triton(config: RunConfig) -> bool:
    asked = config.kernels.implementation
    return asked == "triton" or (asked == "auto" and config.launch.device == "cuda")


def _kernels_fit_the_device(config: RunConfig) -> Iterator[Problem]:
    asked, is_gpu = config.kernels, config.launch.device == "cuda"
    for field in ("layer_norm", "optimizer"):
        if getattr(asked, field) == "apex" and not is_gpu:
            yield Problem(f"kernels.{field}", "'apex'", "needs launch.device = 'cuda'", 'set "auto"')
    if asked.tune_cache and not _is_triton(config):
        rule = "has no effect without Triton's attention"
        yield Problem("kernels.tune_cache", repr(asked.tune_cache), rule, "remove it")


RULES: tuple[Rule, ...] = (
    _tp_divides("model.heads", lambda config: config.model.heads),
    _tp_divides("model.ffn", lambda config: config.model.ffn),
    _tp_divides("model.vocab", lambda config: config.model.vocab),
    _tp_divides("data.sequence", lambda config: config.data.sequence),
    Rule(("model.heads", "model.hidden"), _heads_divide_hidden),
    Rule(("model.heads", "model.kv_heads", "parallel.tp"), _kv_heads),
    Rule(("parallel.pp", "parallel.chunks", "parallel.stage_layers", "model.layers"), _stages),
    Rule(("parallel.pp", "parallel.chunks", "parallel.schedule"), _schedule),
    Rule(("train.global_batch", "train.micro_batch", "parallel.dp"), _global_batch),
    Rule(
        (
            "train.recompute_blocks",
            "train.recompute",
            "model.layers",
            "parallel.pp",
            "parallel.chunks",
            "parallel.stage_layers",
        ),
        _recompute_blocks,
    ),
    *DATA_RULES,
    Rule(("data.sequence", "model.context", "model.positions"), _learned_positions),
    Rule(("model.positions", "model.rope_theta", "model.hidden", "model.heads"), _rotary_positions),
    Rule(
        (
            *("optim.lr", "optim.lr_min", "optim.lr_warmup", "optim.lr_decay", "optim.lr_schedule", "optim.lr_power"),
            "train.steps",
        ),
        _learning_rate,
    ),
    Rule(
        ("parallel.dp", "train.precision", "optim.zero_stage", "optim.reduce_dtype", "optim.bucket_megabytes"),
        _replicas,
    ),
    Rule(
        ("train.precision", *(f"optim.loss_scale.{field}" for field in LossScaleConfig.model_fields)),
        _loss_scale,
    ),
    Rule(("model.hidden", "launch.device", "kernels.implementation"), _kernels),
    Rule(
        ("launch.device", *(f"kernels.{field}" for field in KernelsConfig.model_fields)),
        _kernels_fit_the_device,
    ),
)


def _inside(field: str, broken: frozenset[str]) -> bool:
    return field in broken or field.partition(".")[0] in broken


def find_problems(config: RunConfig, broken: frozenset[str] = frozenset()) -> list[Problem]:
    """Every problem of `config` by the rules that read none of the `broken` fields.

    One field that breaks several divisibility rules is told once, with the first of them.
    """
    found: dict[str, Problem] = {}
    for rule in RULES:
        if not any(_inside(field, broken) for field in rule.reads):
            for problem in rule.find(config):
                found.setdefault(problem.field, problem)
    return list(found.values())
