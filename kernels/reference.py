"""What every fused operation means, in plain torch.

These functions are the definitions: the Triton kernels, the torch fast paths and the tests are all held against them.
They are written to be read, so they keep every intermediate in memory (attention is O(s^2)).

Shape letters: b micro-batch, s sequence, h hidden, n query heads, k key-value heads, d head width.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from megacode.kernels.counter_random import AttentionDropout, HiddenDropout, attention_keep_mask, hidden_keep_mask
from megacode.kernels.torch_optim_loss import AdamWHyper


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each row of `x` to mean 0 and variance 1, then scale and shift.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, statistics over the last dim, in fp32 (fp64 stays fp64).

    Shapes: x [..., h], weight [h], bias [h]; returns [..., h] in x's dtype.
    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, eq. 4.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    normalized = centred * torch.rsqrt(variance + eps)
    return (normalized * weight + bias).to(x.dtype)


def bias_dropout_residual(branch: Tensor, bias: Tensor, residual: Tensor, dropout: HiddenDropout | None) -> Tensor:
    """Add a branch back to the residual stream: residual + dropout(branch + bias), in fp32 (fp64 stays fp64).

    Dropped elements are zero, kept ones scale by 1 / (1 - probability).

    Shapes: branch and residual [b, s, h], bias [h]; returns [b, s, h] in residual's dtype.
    Raises ValueError where the positions reach beyond dropout.length.
    """
    wide = torch.promote_types(residual.dtype, torch.float32)
    total = branch.to(wide) + bias.to(wide)
    if dropout is not None:
        total = total * hidden_keep_mask(dropout, *branch.shape, branch.device) / (1.0 - dropout.probability)
    return (residual.to(wide) + total).to(residual.dtype)


def add_layer_norm(
    branch: Tensor,
    branch_bias: Tensor,
    residual: Tensor,
    dropout: HiddenDropout | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Add a branch back to the residual stream, and normalize the sum: what stands between two halves of a block.

    total = bias_dropout_residual(branch, branch_bias, residual, dropout), rounded to its dtype;
    normalized = layer_norm(total, weight, bias, eps). Returns (total, normalized).

    Shapes: branch and residual [b, s, h], branch_bias, weight and bias [h]; returns two [b, s, h] in residual's dtype.
    Raises ValueError where the positions reach beyond dropout.length.
    """
    total = bias_dropout_residual(branch, branch_bias, residual, dropout)
    return total, layer_norm(total, weight, bias, eps)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Add the bias and apply GELU, in its tanh form, in fp32 (fp64 stays fp64).

    y = u / 2 * (1 + tanh(sqrt(2 / pi) * (u + 0.044715 u^3))) for u = x + bias.

    Shapes: x [..., f], bias [f]; returns [..., f] in x's dtype.
    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, section 2.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return functional.gelu(x.to(wide) + bias.to(wide), approximate="tanh").to(x.dtype)


def rotary(x: Tensor, theta: float, first_position: int = 0) -> Tensor:
    """Turn queries or keys by their positions; halves rotated as Hugging Face's Starcoder2 does.

    Element i of a head turns together with element i + d/2, by the angle position / theta^(2i/d), where the positions
    are first_position, first_position + 1, ... Angles, their cosine and sine, and the products are fp32 (fp64 stays
    fp64, but for the angles). Fast versions may overwrite x.

    Shapes: x [b, s, n, d] with d even; returns [b, s, n, d] in x's dtype.
    Source: Su et al., "RoFormer", 2021, equation 34.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    positions = torch.arange(first_position, first_position + x.shape[1], dtype=torch.float32, device=x.device)
    angles = (positions.unsqueeze(-1) * rotary_frequencies(x.shape[-1], theta, x.device)).unsqueeze(-2)  # [s, 1, d/2]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.to(wide).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotary_frequencies(width: int, theta: float, device: torch.device) -> Tensor:
    """The angles of position 1, in radians: 1 / theta^(2i/d), fp32 [d/2], for heads `width` wide."""
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: AttentionDropout | None,
    window: int | None = None,
    documents: tuple[int, ...] | None = None,
) -> Tensor:
    """Attend from each position to itself and all earlier ones, or the `window` - 1 before it.

    softmax(Q K^T / sqrt(d)) V with a causal mask; the softmax is in fp32 (fp64 stays fp64). Query head i reads
    key-value head i // (n // k): k = n is multi-head, k = 1 multi-query, anything between grouped-query attention.
    `dropout` zeroes probabilities after the softmax and scales the kept ones by 1 / (1 - probability).
    `documents`: lengths in tokens, row after row, adding up to b s; none crosses from one row into the next. A position
    then attends inside its own document only. (Their cumulative sum is the `cu_seqlens` of flash attention.)

    Shapes: query [b, s, n, d], key and value [b, s, k, d] with n % k == 0; returns [b, s, n, d] in query's dtype.
    Sources: Vaswani et al. 2017, section 3.2; Shazeer 2019 (multi-query); Ainslie et al. 2023 (grouped-query);
    Beltagy et al. 2020 (sliding window; StarCoder2 counts the token itself, as transformers does).
    Raises ValueError where n % k != 0, or where `documents` do not fit the rows.
    """
    batch, length, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    if num_heads % num_kv_heads:
        raise ValueError(f"query heads ({num_heads}) must be a multiple of key-value heads ({num_kv_heads})")
    wide = torch.promote_types(query.dtype, torch.float32)
    group = num_heads // num_kv_heads
    key_bnsd = key.to(wide).transpose(1, 2).repeat_interleave(group, dim=1)
    value_bnsd = value.to(wide).transpose(1, 2).repeat_interleave(group, dim=1)
    query_bnsd = query.to(wide).transpose(1, 2)

    scores = query_bnsd @ key_bnsd.transpose(2, 3) * width**-0.5  # [b, n, s, s]
    seen = seen_keys(length, window, query.device)
    if documents is not None:
        seen = seen & same_document(documents, batch, length, query.device)
    probabilities = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
    if dropout is not None:
        keep = attention_keep_mask(dropout, batch, num_heads, length, query.device)
        probabilities = probabilities * keep / (1.0 - dropout.probability)
    return (probabilities @ value_bnsd).transpose(1, 2).contiguous().to(query.dtype)


def seen_keys(length: int, window: int | None, device: torch.device) -> Tensor:
    """Bool [s, s]: whether the query of a row sees the key of a column, which is q - window < k <= q."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def same_document(documents: tuple[int, ...], batch: int, length: int, device: torch.device) -> Tensor:
    """Bool [b, 1, s, s]: whether query and key lie in one document. Raises ValueError where lengths do not fit."""
    check_documents(documents, batch, length)
    lengths = torch.tensor(documents, device=device)
    number = torch.arange(len(documents), device=device).repeat_interleave(lengths).view(batch, 1, length)
    return number.unsqueeze(-1) == number.unsqueeze(-2)


def check_documents(documents: tuple[int, ...], batch: int, length: int) -> None:
    """Raise ValueError unless the lengths fill `batch` rows of `length` tokens, each row ending with a document."""
    ends = set(accumulate(documents))
    if (
        min(documents) < 1
        or not ends.issuperset(range(length, batch * length + 1, length))
        or max(ends) > batch * length
    ):
        raise ValueError(
            f"document lengths must be at least 1 and fill {batch} rows of {length} tokens one by one, got {documents}"
        )


class VocabCrossEntropy:
    """What one part of a vocabulary knows of the cross entropy of some tokens; fp32 (fp64 stays fp64).

    loss = log-sum-exp of the whole vocabulary's logits - target's logit, where the log-sum-exp of the whole is that of
    all parts' `log_sums`, and the target's logit the sum of all parts' `target_logits`.

    log_sums:       log-sum-exp of the own logits, [rows].
    target_logits:  the target's logit, [rows]; 0 where the target is elsewhere.

    Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
    """

    def __init__(self, logits: Tensor, local_targets: Tensor) -> None:
        self._logits = logits
        self._wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self._is_target = torch.arange(logits.shape[-1], device=logits.device) == local_targets.unsqueeze(-1)
        self.log_sums = self._wide.logsumexp(dim=-1)
        self.target_logits = torch.where(self._is_target, self._wide, 0.0).sum(dim=-1)

    def write_gradient(self, whole_log_sums: Tensor, factors: Tensor) -> Tensor:
        """The gradient of the sum of `factors` [rows] times the losses for the logits, written over the logits."""
        probabilities = (self._wide - whole_log_sums.unsqueeze(-1)).exp()
        return self._logits.copy_((probabilities - self._is_target.to(probabilities)) * factors.unsqueeze(-1))


def vocab_cross_entropy(logits: Tensor, local_targets: Tensor) -> VocabCrossEntropy:
    """Cross entropy over one part of the vocabulary, whose columns `local_targets` count: 0 is its first.

    Targets outside of 0 .. w - 1 are in another part. Not for autograd: `write_gradient` gives the gradient.

    Shapes: logits [rows, w], local_targets int64 [rows].
    """
    return VocabCrossEntropy(logits, local_targets)


def adamw(
    master: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    weights: Tensor | None,
    hyper: AdamWHyper,
    update: int,
    divisor: Tensor | None,
) -> None:
    """Update number `update`, from 1, of weights and of the two averages, with the gradient divided by `divisor`.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, with m' = m / (1 - beta1^update) and v' likewise:
    x = x (1 - lr weight_decay) - lr m' / (sqrt(v') + eps). Writes master (x), exp_avg (m), exp_avg_sq (v), and the
    rounded master into `weights` if there are any. Fast versions may use the gradient up.

    Shapes: master, exp_avg, exp_avg_sq and gradient fp32 [n], weights [n] of any float dtype, divisor fp32 scalar.
    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """
    if divisor is not None:
        gradient = gradient / divisor
    exp_avg.copy_(hyper.beta1 * exp_avg + (1.0 - hyper.beta1) * gradient)
    exp_avg_sq.copy_(hyper.beta2 * exp_avg_sq + (1.0 - hyper.beta2) * gradient.square())
    mean, mean_square = exp_avg / (1.0 - hyper.beta1**update), exp_avg_sq / (1.0 - hyper.beta2**update)
    step = hyper.lr * mean / (mean_square.sqrt() + hyper.eps)
    master.copy_(master * (1.0 - hyper.lr * hyper.weight_decay) - step)
    if weights is not None:
        weights.copy_(master)


def sum_of_squares(x: Tensor) -> Tensor:
    """The sum of the squares of all elements, as an fp64 scalar. Shapes: x [n]."""
    return x.double().square().sum()


def scale_(x: Tensor, divisor: Tensor) -> None:
    """Divide `x` [n] by `divisor`, a scalar on the same device, in place."""
    x.copy_(x / divisor)
