"""The shape of a run configuration: frozen pydantic models, units in every field's description, dtypes as names.

Rules that span fields live in `rules.py`; here a field only knows its own type and range.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Recompute = Literal["none", "selective", "full"]


class Section(BaseModel):
    """A frozen table of the TOML file; unknown keys, values of another type, nan and inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """A decoder with pre-LayerNorm, tanh GELU and biases: StarCoder (arXiv 2305.06161) or StarCoder2 (2402.19173)."""

    layers: PositiveInt = Field(description="transformer blocks")
    hidden: PositiveInt = Field(description="width of the residual stream")
    heads: PositiveInt = Field(description="query heads")
    kv_heads: PositiveInt = Field(default=1, description="key-value heads; 1 is multi-query attention")
    ffn: PositiveInt = Field(description="width inside the MLP; 4 x hidden unless given")
    vocab: PositiveInt = Field(default=49152, description="rows of the embedding, tokens")
    positions: Literal["learned", "rotary"] = Field(default="learned", description="StarCoder's or StarCoder2's")
    context: PositiveInt = Field(
        default=8192, description="learned positions, tokens; with rotary ones only what an export names"
    )
    rope_theta: PositiveFloat = Field(default=1e5, description="base of the angles, with rotary positions only")
    window: PositiveInt | None = Field(default=None, description="keys a token sees, itself included; all unless given")
    tied: bool = Field(default=True, description="the output head is the embedding matrix")
    init_std: PositiveFloat = Field(description="standard deviation of initial weights; 1/sqrt(hidden) unless given")
    norm_eps: PositiveFloat = Field(default=1e-5, description="added to the variance in LayerNorm")
    attention_dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="on attention probabilities")
    hidden_dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="on each block's two outputs")
    embedding_dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="on the sum of both embeddings")

    @model_validator(mode="before")
    @classmethod
    def _fill_derived(cls, values: Any) -> Any:
        if isinstance(values, dict) and type(hidden := values.get("hidden")) is int and hidden > 0:
            values = {"ffn": 4 * hidden, "init_std": hidden**-0.5, **values}
        return values

    @property
    def head_width(self) -> int:
        """Elements of one attention head."""
        return self.hidden // self.heads


class ParallelConfig(Section):
    """How many ranks along each axis, in which order, and the pipeline schedule."""

    tp: PositiveInt = Field(default=1, description="tensor-parallel ranks")
    pp: PositiveInt = Field(default=1, description="pipeline stages")
    dp: PositiveInt = Field(default=1, description="data-parallel replicas")
    order: Literal["tp-dp-pp", "tp-pp-dp"] = Field(default="tp-dp-pp", description="fastest axis first")
    schedule: Literal["1f1b", "gpipe", "interleaved", "zb-h1", "zb-v"] = Field(
        default="1f1b", description="order of passes in the pipeline; docs/schedules.md says when to use which"
    )
    chunks: PositiveInt = Field(
        default=1, description="model chunks per stage; 2 with interleaved and zb-v unless given, 1 with the others"
    )
    stage_layers: tuple[PositiveInt, ...] = Field(
        default=(),
        strict=False,
        description="layers of each of the pp x chunks parts, in the model's order; split by cost unless given",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_derived(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("schedule") in ("interleaved", "zb-v"):
            values = {"chunks": 2, **values}
        return values

    @property
    def world_size(self) -> int:
        """Ranks in the run."""
        return self.tp * self.pp * self.dp


class FimConfig(Section):
    """Fill-in-the-middle of code, on whole documents (docs/data.md)."""

    rate: float = Field(default=0.5, ge=0.0, le=1.0, description="share of documents, or files, rearranged")
    spm_rate: float = Field(default=0.5, ge=0.0, le=1.0, description="of those, the share in SPM order; the rest PSM")
    spm: Literal["v2", "v1"] = Field(default="v2", description="variant of SPM; v2 is StarCoder's")
    repository_rate: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of repositories whose files may be rearranged at all"
    )
    cut: Literal["characters", "syntax"] = Field(
        default="characters", description="the middle is any text, or whole parts of the syntax tree"
    )
    loss: Literal["all", "middle"] = Field(
        default="all", description="which tokens of a rearranged document count; all is StarCoder's"
    )


class SourceConfig(Section):
    """One part of a blend: its shards, and its share of the samples."""

    name: str = Field(min_length=1, description="what reports call it")
    shards: str = Field(min_length=1, description="prefix of its shard, or a pattern of several, such as code/java-*")
    weight: PositiveFloat | None = Field(default=None, description="share of the samples; by its tokens unless given")
    validation: str = Field(default="", description="prefix or pattern of its validation shards; empty: none")


class MixConfig(Section):
    """Other weights from a point of the run on."""

    from_tokens: PositiveInt = Field(description="tokens of the whole run before them")
    weights: dict[str, NonNegativeFloat] = Field(description="share of the samples, by the name of each source")


class DataConfig(Section):
    """Tokenized shards (prefixes of `.bin`/`.idx`), the tokenizer that made them, and how samples are cut."""

    train: str = Field(default="", description="prefix of the training shard, or a pattern of several: one source")
    validation: str = Field(default="", description="prefix or pattern of the validation shards; empty: none")
    sources: tuple[SourceConfig, ...] = Field(
        default=(), strict=False, description="instead of train and validation: several sources, blended"
    )
    mix: tuple[MixConfig, ...] = Field(default=(), strict=False, description="weights of later parts of the run")
    tokenizer: str = Field(description="folder with tokenizer.json or tokenizer.model")
    sequence: PositiveInt = Field(description="tokens a sample is trained on")
    packing: Literal["concatenate", "best-fit"] = Field(
        default="concatenate", description="documents cut where a sample is full, or whole where they fit"
    )
    seed: NonNegativeInt = Field(default=1234, description="of the order of samples and the FIM cuts")
    workers: NonNegativeInt = Field(default=0, description="processes of each rank that make micro-batches ahead")
    document_mask: bool = Field(
        default=False, description="attention stays inside a document, and positions start again with each"
    )
    fim: FimConfig = FimConfig()

    @property
    def blended(self) -> tuple[SourceConfig, ...]:
        """The sources, also where there is only one."""
        if self.sources or not self.train:
            return self.sources
        return (SourceConfig(name="train", shards=self.train, validation=self.validation),)

    @property
    def has_validation(self) -> bool:
        """Whether any source has validation shards."""
        return any(source.validation for source in self.blended)


class LossScaleConfig(Section):
    """What multiplies the loss of an fp16 run, so that small gradients are not lost; a power of two that adapts."""

    initial: PositiveFloat = Field(default=65536.0, description="factor of the first step")
    growth_steps: PositiveInt = Field(default=2000, description="steps without an overflow after which it doubles")
    minimum: PositiveFloat = Field(default=1.0, description="overflows halve it no further than this")


class OptimConfig(Section):
    """AdamW with decoupled weight decay on matrices only, and the learning rate over optimizer steps."""

    lr: PositiveFloat = Field(description="highest learning rate")
    lr_min: NonNegativeFloat = Field(default=0.0, description="learning rate at the end of the decay")
    lr_schedule: Literal["cosine", "linear", "polynomial", "inverse_square_root", "constant"] = Field(
        default="cosine", description="after the warm-up"
    )
    lr_power: PositiveFloat = Field(default=1.0, description="exponent of the polynomial schedule; 1 is linear")
    lr_warmup: NonNegativeInt = Field(default=0, description="steps of linear warm-up")
    lr_decay: PositiveInt | None = Field(default=None, description="steps at which lr_min is reached; train.steps")
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0, description="decay of the first moment")
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0, description="decay of the second moment")
    eps: PositiveFloat = Field(default=1e-8, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(default=0.1, description="decoupled, on matrices and embeddings only")
    clip: PositiveFloat = Field(default=1.0, description="largest global gradient norm")
    zero_stage: Literal[0, 1] = Field(
        default=1, description="1: each replica keeps and updates its share of the optimizer's state; 0: all of it"
    )
    reduce_dtype: Literal["fp32", "weights"] = Field(
        default="fp32", description="in which gradients travel between replicas; weights: in the dtype of the weights"
    )
    bucket_megabytes: PositiveFloat = Field(
        default=64.0, description="MB of fp32 gradients that replicas reduce at once, while backward goes on"
    )
    loss_scale: LossScaleConfig = LossScaleConfig()


class TrainConfig(Section):
    """How long and in what portions."""

    steps: PositiveInt = Field(description="optimizer steps of the whole run")
    global_batch: PositiveInt = Field(description="sequences per optimizer step")
    micro_batch: PositiveInt = Field(default=1, description="sequences per forward pass of a rank")
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16",
        description="of weights and activations; gradients are accumulated, and master weights kept, in fp32",
    )
    recompute: Recompute = Field(
        default="none",
        description="selective: norms and GELU are computed again in backward; full: keep each block's input only",
    )
    recompute_blocks: PositiveInt | None = Field(
        default=None, description="how many blocks of each stage recompute, the first ones; all unless given"
    )
    seed: NonNegativeInt = Field(default=1234, description="of initial weights and dropout")
    log_every: PositiveInt = Field(default=10, description="steps between lines on the screen")
    validate_every: NonNegativeInt = Field(default=0, description="steps between validations; 0: only at the end")
    validate_sequences: PositiveInt = Field(default=32, description="sequences per validation, of each kind")

    def recompute_in(self, place: int) -> Recompute:
        """What the block at `place`, from 0, of a stage recomputes."""
        return self.recompute if self.recompute_blocks is None or place < self.recompute_blocks else "none"


class CheckpointConfig(Section):
    """Where the run keeps its state. `train` resumes from the newest sound checkpoint of this folder."""

    folder: str = Field(default="runs/default", description="run folder: checkpoints, metrics, report")
    every: NonNegativeInt = Field(default=0, description="steps between checkpoints; 0: only at the end")
    keep: PositiveInt = Field(default=2, description="newest checkpoints kept")
    keep_every: NonNegativeInt = Field(
        default=0, description="a checkpoint whose step is a multiple of it is kept for ever; 0: none"
    )
    background: bool = Field(
        default=True,
        description="a step waits only until the state is copied to host memory, which holds it twice for that; "
        "false: until it is on the disk",
    )
    export_every: NonNegativeInt = Field(
        default=0, description="steps between Hugging Face folders, made beside training in exports/; 0: none"
    )
    init_from: str = Field(default="", description="checkpoint whose weights start a fresh run")


class LaunchConfig(Section):
    """What the ranks run on."""

    device: Literal["cpu", "cuda"] = Field(
        default="cuda", description="cpu talks over gloo and sockets, cuda over NCCL"
    )
    timeout_seconds: PositiveInt = Field(default=600, description="a collective that waits longer fails the run")
    threads: PositiveInt = Field(default=1, description="CPU threads per rank")
    peak_tflops: NonNegativeFloat = Field(default=0.0, description="dense peak of one rank's device; 0: no MFU shown")

    @property
    def backend(self) -> str:
        """The torch.distributed backend that goes with the device."""
        return {"cpu": "gloo", "cuda": "nccl"}[self.device]


class KernelsConfig(Section):
    """Which implementation the operations use."""

    implementation: Literal["auto", "torch", "triton"] = Field(
        default="auto", description="auto: Triton on CUDA, torch's own on the CPU"
    )
    layer_norm: Literal["auto", "apex"] = Field(default="auto", description="apex: NVIDIA's FusedLayerNorm instead")
    optimizer: Literal["auto", "apex"] = Field(default="auto", description="apex: NVIDIA's FusedAdam instead")
    tune_cache: str = Field(
        default="",
        description="folder in which the fastest tiles of Triton's attention are kept, timed at their first use; "
        "empty: fixed tiles, the same on every GPU",
    )


class RunConfig(Section):
    """A whole run, read from one TOML file."""

    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    launch: LaunchConfig = LaunchConfig()
    kernels: KernelsConfig = KernelsConfig()

    @property
    def micro_batches(self) -> int:
        """Micro-batches that one replica runs per optimizer step."""
        return self.train.global_batch // (self.train.micro_batch * self.parallel.dp)

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on by one optimizer step of the whole run."""
        return self.train.global_batch * self.data.sequence
