"""Encoder layers in few calls: their modules and weights stay, and so does transformers' own forward.

A layer is two functions around its attention, each of matrix products and the passes of `model.fast.kernels`. They keep
for the backward pass what it needs and no more (`cost` counts it): what gelu gives is made again. Queries, keys and
values are one product; attention scales them, which for heads of 64 changes no bit. The decoder is not here: a text is
short beside the 1,500 states of a window.

Shapes: U windows of S = 1500 states, rows R = U * S, E dim, N heads, H head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from shibolet.model.fast.kernels import gelu_backward_, layer_norm, layer_norm_backward


class EncoderLayer(WhisperEncoderLayer):
    """A layer that `encoder_layer` computes."""


def fuse_layers(model: WhisperForConditionalGeneration) -> None:
    """Have the encoder's layers computed here; those with another activation than every Whisper's stay as they are."""
    if model.config.activation_function == "gelu":
        for layer in model.model.encoder.layers:
            layer.__class__ = EncoderLayer


def encoder_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """The states `[U, S, E]` after a layer."""
    attention, norm, last_norm = layer.self_attn, layer.self_attn_layer_norm, layer.final_layer_norm
    query, key, value, rows = _BeforeAttention.apply(
        x.reshape(-1, x.shape[-1]), norm.weight, norm.bias, norm.eps, (len(x), attention.num_heads),
        attention.q_proj.weight, attention.q_proj.bias, attention.k_proj.weight, attention.v_proj.weight,
        attention.v_proj.bias,
    )  # fmt: skip
    by_head = (heads.transpose(1, 2) for heads in (query, key, value))
    attended = F.scaled_dot_product_attention(*by_head, scale=attention.scaling).transpose(1, 2).reshape(rows.shape)
    del query, key, value, by_head  # where nothing is kept, the largest pass begins without them
    found = _AfterAttention.apply(
        attended, rows, attention.out_proj.weight, attention.out_proj.bias, last_norm.weight, last_norm.bias,
        last_norm.eps, layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias,
    )  # fmt: skip
    return found.view(x.shape)


class _BeforeAttention(torch.autograd.Function):
    """Norm and projections; the residual stream passes through to meet its gradient."""

    @staticmethod
    def forward(ctx, x, norm, norm_bias, eps, shape, wq, bq, wk, wv, bv):
        normed, _, mean, rstd = layer_norm(x, norm, norm_bias, eps)
        joined = F.linear(normed, torch.cat((wq, wk, wv)), torch.cat((bq, torch.zeros_like(bq), bv)))
        windows, heads = shape
        wants = ctx.needs_input_grad
        ctx.save_for_backward(x, norm, mean, rstd, normed if wants[5] or wants[7] or wants[8] else None, wq, wk, wv)
        return *joined.view(windows, -1, 3, heads, x.shape[1] // heads).unbind(2), x

    @staticmethod
    def backward(ctx, dquery, dkey, dvalue, dx):
        x, norm, mean, rstd, normed, wq, wk, wv = ctx.saved_tensors
        wants = ctx.needs_input_grad
        dq, dk, dv = (dy.reshape(x.shape) for dy in (dquery, dkey, dvalue))
        dnormed = (dq @ wq).addmm_(dk, wk).addmm_(dv, wv)
        dx, dnorm, dnorm_bias = layer_norm_backward(
            dnormed, x, norm, mean, rstd, add=dx, wants_weight=wants[1] or wants[2]
        )
        of_weights = ((dq, wants[5]), (dk, wants[7]), (dv, wants[8]))
        dwq, dwk, dwv = (dy.t() @ normed if wanted else None for dy, wanted in of_weights)
        dbq, dbv = (dy.sum(0) if wanted else None for dy, wanted in ((dq, wants[6]), (dv, wants[9])))
        return dx, dnorm, dnorm_bias, None, None, dwq, dbq, dwk, dwv, dbv


class _AfterAttention(torch.autograd.Function):
    """Projection of what was attended to, norm and feed-forward, each added to the residual stream."""

    @staticmethod
    def forward(ctx, attended, x, wo, bo, norm, norm_bias, eps, w1, b1, w2, b2):
        wants = ctx.needs_input_grad
        normed, middle, mean, rstd = layer_norm(F.linear(attended, wo, bo), norm, norm_bias, eps, add=x)
        raised = F.linear(normed, w1, b1)
        ctx.save_for_backward(
            attended if wants[2] else None, middle, norm, mean, rstd, normed if wants[7] else None, raised,
            wo, w1, w2,
        )  # fmt: skip
        del normed
        return F.linear(F.gelu(raised), w2, b2).add_(middle)

    @staticmethod
    def backward(ctx, dout):
        attended, middle, norm, mean, rstd, normed, raised, wo, w1, w2 = ctx.saved_tensors
        wants = ctx.needs_input_grad
        dout = dout.contiguous()
        product = dout @ w2  # its gradient; then, where it is wanted, the product itself
        db1 = gelu_backward_(product, raised, wants_product=wants[9], wants_sum=wants[8])
        dw2 = dout.t() @ product if wants[9] else None
        del product
        db2 = dout.sum(0) if wants[10] else None
        dw1 = raised.t() @ normed if wants[7] else None
        dx, dnorm, dnorm_bias = layer_norm_backward(
            raised @ w1, middle, norm, mean, rstd, add=dout, wants_weight=wants[4] or wants[5]
        )
        dwo = dx.t() @ attended if wants[2] else None
        dbo = dx.sum(0) if wants[3] else None
        return dx @ wo, dx, dwo, dbo, dnorm, dnorm_bias, None, dw1, db1, dw2, db2
