"""Decoder layers with their own backward pass, put into the transformers model by name; its modules and weights stay.

A layer is two functions around its attention, each of matrix products and the passes of `model.kernels`. They keep for
the backward pass what it needs and no more (`model.cost` counts it) and add gradients up within the products. Every
attention function serves: packed, one token at a time, `generate`'s.

Shapes: B sequences of T tokens, rows R = B * T, D model dim, F inner dim, N heads, H head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, eager_attention_forward

from shibolet.errors import ModelError
from shibolet.model.kernels import (
    drop_and_project,
    drop_and_project_backward_,
    norm_rope,
    norm_rope_backward,
    rms_norm,
    rms_norm_backward,
    swiglu,
    swiglu_backward_,
)


def fuse_decoder(model: PreTrainedModel) -> None:
    """Put the functions of this module into the layers of the decoder and into its last norm.

    ModelError where its layers are none of Qwen3-ASR's: with biases, or another gate than SwiGLU's.
    """
    config = model.config.text_config
    if config.attention_bias or config.hidden_act != "silu":
        raise ModelError(
            f"a decoder with attention_bias {config.attention_bias} and hidden_act '{config.hidden_act}' is none of "
            "Qwen3-ASR's; it cannot be trained here"
        )
    decoder = model.model.language_model
    for layer in decoder.layers:
        layer.forward = MethodType(_layer, layer)
    decoder.norm.forward = MethodType(_last_norm, decoder.norm)


def is_fused(model: PreTrainedModel) -> bool:
    """Whether `fuse_decoder` has been there: the decoder then takes `kept_rows`."""
    return getattr(model.model.language_model.layers[-1].forward, "__func__", None) is _layer


def _layer(
    self: Qwen3DecoderLayer,
    hidden_states: Tensor,  # [B, T, D]
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: object | None = None,
    use_cache: bool | None = False,
    position_embeddings: tuple[Tensor, Tensor] | None = None,  # [B, T, H] each
    kept_rows: Tensor | None = None,  # [L] of B = 1: those that the last layer gives, `[1, L, D]`
    **kwargs,
) -> Tensor:
    attention, mlp, shape = self.self_attn, self.mlp, hidden_states.shape
    heads = (*shape[:2], -1, attention.head_dim)
    cos, sin = (x.expand(*shape[:2], -1).reshape(-1, attention.head_dim) for x in position_embeddings)
    q, k, v = (_projection(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj))
    eps = (self.input_layernorm.variance_epsilon, attention.q_norm.variance_epsilon)
    query, key, value, hidden = _BeforeAttention.apply(
        hidden_states.reshape(-1, shape[-1]), self.input_layernorm.weight, attention.q_norm.weight,
        attention.k_norm.weight, cos, sin, eps, (q.how, k.how, v.how), *q.weights, *k.weights, *v.weights,
    )  # fmt: skip
    query, key, value = (x.view(heads).transpose(1, 2) for x in (query, key, value))
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    attended, _ = attend(
        attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling,
        sliding_window=attention.sliding_window, **kwargs,
    )  # fmt: skip
    attended = attended.reshape(len(hidden), -1)
    if kept_rows is not None and attention.layer_idx == attention.config.num_hidden_layers - 1:
        attended, hidden = attended.index_select(0, kept_rows), hidden.index_select(0, kept_rows)
    o, norm = _projection(attention.o_proj), self.post_attention_layernorm
    return _AfterAttention.apply(
        attended, hidden, norm.weight, norm.variance_epsilon, o.how, mlp.gate_proj.weight,
        mlp.up_proj.weight, mlp.down_proj.weight, *o.weights,
    ).view(len(hidden_states), -1, shape[-1])  # fmt: skip


def _last_norm(self: nn.Module, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states.reshape(-1, hidden_states.shape[-1]), self.weight, self.variance_epsilon).view(
        hidden_states.shape
    )


@dataclass(frozen=True, slots=True)
class _Adapting:
    """How an adapter is added: `scaling * B A dropout(x)`."""

    scaling: float
    dropout: float


class _Projection(NamedTuple):
    weights: tuple[Tensor, Tensor | None, Tensor | None]  # W [out, in], A [rank, in], B [out, rank]
    how: _Adapting | None  # None: there is no adapter


def _projection(module: nn.Module) -> _Projection:
    if not hasattr(module, "lora_A"):
        return _Projection((module.weight, None, None), None)
    dropout = module.lora_dropout["default"]
    rate = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
    weights = (module.get_base_layer().weight, module.lora_A["default"].weight, module.lora_B["default"].weight)
    return _Projection(weights, _Adapting(module.scaling["default"], rate))


Kept = tuple[Tensor | None, Tensor | None]  # of an adapter: the draw of its dropout, and A dropout(x)


def project(x: Tensor, weights: Sequence[Tensor | None], how: _Adapting | None) -> tuple[Tensor, Kept]:
    """`x W^T` `[R, out]` with what an adapter adds, as peft's layer."""
    weight, a, b = weights
    y = x @ weight.t()
    if how is None:
        return y, (None, None)
    low, draw = drop_and_project(x, a, how.dropout) if how.dropout else (x @ a.t(), None)
    return y.addmm_(low, b.t(), alpha=how.scaling), (draw, low)


def project_backward(
    dy: Tensor,
    x: Tensor | None,
    weights: Sequence[Tensor | None],
    how: _Adapting | None,
    kept: Kept,
    wants_weight: bool,
    dx: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Gradients of `x`, added to `dx` where that is given, and of W (where it is wanted), A and B."""
    (weight, a, b), (draw, low) = weights, kept
    dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
    dweight = dy.t() @ x if wants_weight else None
    if how is None:
        return dx, (dweight, None, None)
    dlow = (dy @ b).mul_(how.scaling)
    db = (dy.t() @ low).mul_(how.scaling)
    if draw is None:
        return dx.addmm_(dlow, a), (dweight, dlow.t() @ x, db)
    return dx, (dweight, drop_and_project_backward_(dlow, x, a, how.dropout, draw, dx), db)


class _BeforeAttention(torch.autograd.Function):
    """Norm, projections, norms of the heads and rotation; the residual stream passes through to meet its gradient."""

    @staticmethod
    def forward(ctx, hidden, norm, q_norm, k_norm, cos, sin, eps, hows, *weights):
        normed, _, rstd = rms_norm(hidden, norm, eps[0])
        (q, k, v), kept = zip(*(project(normed, weights[3 * i : 3 * i + 3], hows[i]) for i in range(3)), strict=True)
        q, k, v = (x.view(len(x), -1, len(q_norm)) for x in (q, k, v))
        query, key = norm_rope(q, q_norm, cos, sin, eps[1]), norm_rope(k, k_norm, cos, sin, eps[1])
        ctx.eps, ctx.hows = eps[1], hows
        if not any(ctx.needs_input_grad[8:]):
            normed = None
        ctx.save_for_backward(
            hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, q, k, *weights, *(x for pair in kept for x in pair)
        )
        return query, key, v, hidden

    @staticmethod
    def backward(ctx, dquery, dkey, dvalue, dhidden):
        hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, q, k, *rest = ctx.saved_tensors
        wants = ctx.needs_input_grad
        heads = (cos, sin, ctx.eps)
        dq, dq_norm = norm_rope_backward(dquery.contiguous(), q, q_norm, *heads, wants_weight=wants[2])
        dk, dk_norm = norm_rope_backward(dkey.contiguous(), k, k_norm, *heads, wants_weight=wants[3])
        dnormed, dweights = None, []
        for i, dy in enumerate((dq, dk, dvalue)):
            of = slice(3 * i, 3 * i + 3)
            dnormed, found = project_backward(
                dy.reshape(len(dy), -1), normed, rest[of], ctx.hows[i], rest[9 + 2 * i : 11 + 2 * i],
                wants[8 + 3 * i], dnormed,
            )  # fmt: skip
            dweights += found
        dx, dnorm = rms_norm_backward(dnormed, hidden, norm, rstd, add=dhidden, wants_weight=wants[1])
        return dx, dnorm, dq_norm, dk_norm, None, None, None, None, *dweights


class _AfterAttention(torch.autograd.Function):
    """Projection of what was attended to, norm and SwiGLU, each added to the residual stream."""

    @staticmethod
    def forward(ctx, attended, hidden, norm, eps, how, gate, up, down, *o):
        projected, (draw, low) = project(attended, o, how)
        normed, middle, rstd = rms_norm(projected, norm, eps, add=hidden)
        gated, raised = normed @ gate.t(), normed @ up.t()
        ctx.how = how
        keep_normed = ctx.needs_input_grad[5] or ctx.needs_input_grad[6]
        ctx.save_for_backward(
            attended, middle, norm, rstd, normed if keep_normed else None, gated, raised, gate, up, down, *o, draw, low
        )
        return torch.addmm(middle, swiglu(gated, raised), down.t())

    @staticmethod
    def backward(ctx, dout):
        attended, middle, norm, rstd, normed, gated, raised, gate, up, down, *o, draw, low = ctx.saved_tensors
        wants = ctx.needs_input_grad
        dout = dout.contiguous()
        product = dout @ down  # its gradient; then, where it is wanted, the product itself
        swiglu_backward_(product, gated, raised, wants_product=wants[7])
        ddown = dout.t() @ product if wants[7] else None
        del product
        dgate = gated.t() @ normed if wants[5] else None
        dup = raised.t() @ normed if wants[6] else None
        dnormed = (gated @ gate).addmm_(raised, up)
        dhidden, dnorm = rms_norm_backward(dnormed, middle, norm, rstd, add=dout, wants_weight=wants[2])
        dattended, do = project_backward(dhidden, attended, o, ctx.how, (draw, low), wants[8])
        return dattended, dhidden, dnorm, None, None, dgate, dup, ddown, *do


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, eps):
        normed, _, rstd = rms_norm(hidden, weight, eps)
        ctx.save_for_backward(hidden, weight, rstd)
        return normed

    @staticmethod
    def backward(ctx, dnormed):
        hidden, weight, rstd = ctx.saved_tensors
        dx, dweight = rms_norm_backward(
            dnormed.contiguous(), hidden, weight, rstd, wants_weight=ctx.needs_input_grad[1]
        )
        return dx, dweight, None
