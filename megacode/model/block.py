"""One transformer block, pre-LayerNorm (GPT-2): x + attention(norm(x)), then x + mlp(norm(x))."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megacode.config.schema import ModelConfig, Recompute
from megacode.kernels.counter_random import HiddenDropout
from megacode.layers.attention import Attention
from megacode.layers.dropout import Draw, hidden_dropout
from megacode.layers.forward_pass import ForwardPass
from megacode.layers.mlp import MLP
from megacode.layers.norm import LayerNorm
from megacode.layers.recompute import thrown_away
from megacode.layers.spec import LayerContext

# Dropout sites: 0 is the embedding; layer i has three, for probabilities, attention output and MLP output.
SITES_PER_LAYER = 3


class Block(nn.Module):
    """Layer number `layer` of the decoder: [b, s/tp, h] -> [b, s/tp, h].

    `recompute` full: it keeps its input only (Chen et al. 2016). Dropout is a function of its draw, so there is no
    random state to keep. selective: it keeps what matrix products made, and computes norms and GELU again.
    """

    def __init__(self, context: LayerContext, model: ModelConfig, layer: int, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute: Recompute = recompute
        name, self.tp, self.kernels, self.dropout = f"layers.{layer}", context.tp, context.kernels, model.hidden_dropout
        self.first_site = 1 + SITES_PER_LAYER * layer
        # Outputs to the residual stream start smaller, by the depth of the whole model (GPT-2; Megatron's scaled init).
        out_std = model.init_std / (2 * model.layers) ** 0.5
        self.attention_norm = LayerNorm(context, f"{name}.attention_norm", model.hidden, model.norm_eps)
        self.attention = Attention(context, f"{name}.attention", model, out_std, self.first_site)
        self.mlp_norm = LayerNorm(context, f"{name}.mlp_norm", model.hidden, model.norm_eps)
        self.mlp = MLP(context, f"{name}.mlp", model, out_std, is_selective=recompute == "selective")

    def forward(self, x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """[b, s/tp, h] -> [b, s/tp, h]."""
        if self.recompute == "full" and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._compute, x, forward_pass, use_reentrant=False, preserve_rng_state=False)
            return out
        return self._compute(x, forward_pass)

    def _compute(self, x: Tensor, forward_pass: ForwardPass) -> Tensor:
        draw, is_selective = forward_pass.draw, self.recompute == "selective"
        normalized = self.attention_norm(x)
        with thrown_away(is_selective, normalized, self.attention_norm, x):
            branch = self.attention(normalized, forward_pass)
        bias, dropout = self.attention.out.bias, self._dropout(x, draw, self.first_site + 1)
        total, normalized = self.mlp_norm.of_sum(branch, bias, x, dropout)
        with thrown_away(is_selective, normalized, self.mlp_norm, total):
            branch = self.mlp(normalized)
        bias, dropout = self.mlp.down.bias, self._dropout(x, draw, self.first_site + 2)
        return self.kernels.bias_dropout_residual(branch, bias, total, dropout)

    def _dropout(self, x: Tensor, draw: Draw | None, site: int) -> HiddenDropout | None:
        return hidden_dropout(x, self.dropout, draw, site, self.tp)
