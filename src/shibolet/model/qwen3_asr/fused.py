"""Decoder layers with their own backward pass, put into the transformers model by name; its modules and weights stay.

A layer is two functions around its attention, each of matrix products and the passes of `model.fast.kernels`. They
keep for the backward pass what it needs and no more (`cost` counts it) and add gradients up within the products.
Every attention function serves: packed, one token at a time, `generate`'s.

Shapes: B sequences of T tokens, rows R = B * T, D model dim, F inner dim, N heads, H head dim.
"""

from collections.abc import Sequence
from types import MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, eager_attention_forward

from shibolet.errors import ModelError
from shibolet.model.fast.kernels import (
    attend,
    drop_and_project,
    drop_and_project_backward_,
    norm_rope,
    norm_rope_backward,
    rms_norm,
    rms_norm_backward,
    swiglu,
    swiglu_backward_,
)
from shibolet.model.fast.rows import layer_norm


def fuse(model: PreTrainedModel) -> None:
    """`fuse_decoder`, and norms of the encoder whose gradients are the same for any number of threads of a CPU."""
    fuse_decoder(model)
    for module in model.model.audio_tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = MethodType(_encoder_norm, module)


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
    cos, sin = (x.expand(*shape[:2], -1).reshape(-1, attention.head_dim) for x in position_embeddings)
    inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
    eps = (self.input_layernorm.variance_epsilon, attention.q_norm.variance_epsilon)
    query, key, value, hidden = _BeforeAttention.apply(
        hidden_states.reshape(-1, shape[-1]), self.input_layernorm.weight, attention.q_norm.weight,
        attention.k_norm.weight, cos, sin, eps, _adapting(inputs), *(w for module in inputs for w in _map(module)),
    )  # fmt: skip
    segments = kwargs.get("cu_seq_lens_q")
    if segments is not None and past_key_values is None:
        attended = attend(
            query, key, value, segments, kwargs["max_length_q"], causal=attention.is_causal, scaling=attention.scaling
        )
    else:
        heads = (*shape[:2], -1, attention.head_dim)
        query, key, value = (x.view(heads).transpose(1, 2) for x in (query, key, value))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, attention.layer_idx)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        attended, _ = function(
            attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling,
            sliding_window=attention.sliding_window, **kwargs,
        )  # fmt: skip
    attended = attended.reshape(len(hidden), -1)
    if kept_rows is not None and attention.layer_idx == attention.config.num_hidden_layers - 1:
        attended, hidden = attended.index_select(0, kept_rows), hidden.index_select(0, kept_rows)
    norm = self.post_attention_layernorm
    return _AfterAttention.apply(
        attended, hidden, norm.weight, norm.variance_epsilon, _adapting([attention.o_proj]),
        mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, *_map(attention.o_proj),
    ).view(len(hidden_states), -1, shape[-1])  # fmt: skip


def _encoder_norm(self: nn.LayerNorm, hidden_states: Tensor) -> Tensor:
    return layer_norm(hidden_states, self.weight, self.bias, self.eps)


def _last_norm(self: nn.Module, hidden_states: Tensor) -> Tensor:
    return _Norm.apply(hidden_states.reshape(-1, hidden_states.shape[-1]), self.weight, self.variance_epsilon).view(
        hidden_states.shape
    )


class _Adapting(NamedTuple):
    """How an adapter is added: `scaling * B A dropout(x)`."""

    dropout: float
    scaling: float


def _map(module: nn.Module) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if not hasattr(module, "lora_A"):
        return module.weight, None, None
    return module.get_base_layer().weight, module.lora_A["default"].weight, module.lora_B["default"].weight


def _adapting(modules: Sequence[nn.Module]) -> _Adapting | None:
    """How the adapters of projections of one input are added; None: there are none."""
    found = set()
    for module in modules:
        if hasattr(module, "lora_A"):
            dropout = module.lora_dropout["default"]
            rate = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
            found.add(_Adapting(rate, module.scaling["default"]))
    if len(found) > 1:
        raise ModelError(f"adapters of one layer's q, k and v differ in dropout or scaling: {sorted(found)}")
    return found.pop() if found else None


def _threes(weights: Sequence[Tensor | None]) -> list[Sequence[Tensor | None]]:
    return [weights[first : first + 3] for first in range(0, len(weights), 3)]


Map = Sequence[Tensor | None]  # W [out, in], and of its adapter A [rank, in] and B [out, rank], if it has one
Kept = tuple[Tensor | None, Tensor | None]  # of adapters: the draw of their dropout, and scaling * A dropout(x)


def project(x: Tensor, maps: Sequence[Map], how: _Adapting | None) -> tuple[list[Tensor], Kept]:
    """`x W^T` `[R, out]` of each map with what its adapter adds, as peft's layers, but for one dropout of x for all."""
    ys = [x @ weight.t() for weight, _, _ in maps]
    if how is None:
        return ys, (None, None)
    adapted = [(y, a, b) for y, (_, a, b) in zip(ys, maps, strict=True) if a is not None]
    together = _stacked([a for _, a, _ in adapted])
    low, draw = drop_and_project(x, together, *how) if how.dropout else ((x @ together.t()).mul_(how.scaling), None)
    ranks = [len(a) for _, a, _ in adapted]
    for (y, _, b), own in zip(adapted, low.split(ranks, dim=1), strict=True):
        y.addmm_(own, b.t())
    return ys, (draw, low)


def project_backward(
    dys: Sequence[Tensor],
    x: Tensor | None,
    maps: Sequence[Map],
    how: _Adapting | None,
    kept: Kept,
    wants_weight: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of `x`, and of W (where it is wanted), A and B of each map in turn."""
    dx = dys[0] @ maps[0][0]
    for dy, (weight, _, _) in zip(dys[1:], maps[1:], strict=True):
        dx.addmm_(dy, weight)
    found = [[dy.t() @ x if wanted else None, None, None] for dy, wanted in zip(dys, wants_weight, strict=True)]
    if how is not None:
        (draw, low), adapted = kept, [i for i, (_, a, _) in enumerate(maps) if a is not None]
        ranks, together = [len(maps[i][1]) for i in adapted], _stacked([maps[i][1] for i in adapted])
        dlow = torch.cat([dys[i] @ maps[i][2] for i in adapted], dim=1)
        if draw is None:
            dlow.mul_(how.scaling)
            dx.addmm_(dlow, together)
            da = dlow.t() @ x
        else:
            da = drop_and_project_backward_(dlow, x, together, *how, draw, dx)
        for i, own, own_da in zip(adapted, low.split(ranks, dim=1), da.split(ranks), strict=True):
            found[i][1:] = own_da, dys[i].t() @ own
    return dx, [gradient for of_map in found for gradient in of_map]


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


class _BeforeAttention(torch.autograd.Function):
    """Norm, projections, norms of the heads and rotation; the residual stream passes through to meet its gradient."""

    @staticmethod
    def forward(ctx, hidden, norm, q_norm, k_norm, cos, sin, eps, how, *weights):
        normed, _, rstd = rms_norm(hidden, norm, eps[0])
        (q, k, v), kept = project(normed, _threes(weights), how)
        q, k, v = (x.view(len(x), -1, len(q_norm)) for x in (q, k, v))
        query, key = norm_rope(q, q_norm, cos, sin, eps[1]), norm_rope(k, k_norm, cos, sin, eps[1])
        ctx.eps, ctx.how = eps[1], how
        if not any(ctx.needs_input_grad[8:]):
            normed = None
        ctx.save_for_backward(hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, q, k, *weights, *kept)
        return query, key, v, hidden

    @staticmethod
    def backward(ctx, dquery, dkey, dvalue, dhidden):
        hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, q, k, *weights, draw, low = ctx.saved_tensors
        wants = ctx.needs_input_grad
        heads = (cos, sin, ctx.eps)
        dq, dq_norm = norm_rope_backward(dquery.contiguous(), q, q_norm, *heads, wants_weight=wants[2])
        dk, dk_norm = norm_rope_backward(dkey.contiguous(), k, k_norm, *heads, wants_weight=wants[3])
        dys = [dy.reshape(len(dy), -1) for dy in (dq, dk, dvalue)]
        dnormed, dweights = project_backward(dys, normed, _threes(weights), ctx.how, (draw, low), wants[8::3])
        dx, dnorm = rms_norm_backward(dnormed, hidden, norm, rstd, add=dhidden, wants_weight=wants[1])
        return dx, dnorm, dq_norm, dk_norm, None, None, None, None, *dweights


class _AfterAttention(torch.autograd.Function):
    """Projection of what was attended to, norm and SwiGLU, each added to the residual stream."""

    @staticmethod
    def forward(ctx, attended, hidden, norm, eps, how, gate, up, down, *o):
        (projected,), (draw, low) = project(attended, [o], how)
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
        dattended, do = project_backward([dhidden], attended, [o], ctx.how, (draw, low), wants[8:9])
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
