"""Layers with few calls, put into the transformers model by name; its modules and weights stay.

A decoder layer is two functions around its attention, each of matrix products and the passes of `model.fast.kernels`.
They keep for the backward pass what it needs and no more (`cost` counts it) and add gradients up within the products.
Every attention function serves: packed, one token at a time, `generate`'s. An encoder layer is one function, where
nothing asks for gradients.

Matrices that multiply the same rows lie one below the other in memory, so that one product does for all of them.

Shapes: B sequences of T tokens, rows R = B * T, D model dim, F inner dim, N heads, H head dim, A audio tokens,
E encoder dim.
"""

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3DecoderLayer,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    eager_attention_forward,
)
from transformers.models.qwen3_asr.modeling_qwen3_asr import Qwen3ASRAudioEncoderLayer

from shibolet.errors import ModelError
from shibolet.model.fast.kernels import (
    attend,
    norm_rope,
    norm_rope_backward,
    rms_norm,
    rms_norm_backward,
    swiglu,
    swiglu_backward_,
)
from shibolet.model.fast.rows import layer_norm
from shibolet.model.qwen3_asr.projections import (
    adapting,
    lay_together,
    map_of,
    products,
    project,
    project_backward,
    stacked,
    threes,
    weight_of,
)

_INPUTS = ("q_proj", "k_proj", "v_proj")


def fuse_layers(model: PreTrainedModel) -> None:
    """Give the layers and norms of both towers, and the decoder's rotations, the classes of this module.

    ModelError where the decoder's layers are none of Qwen3-ASR's: with biases, or another gate than SwiGLU's.
    """
    config = model.config.text_config
    if config.attention_bias or config.hidden_act != "silu":
        raise ModelError(
            f"a decoder with attention_bias {config.attention_bias} and hidden_act '{config.hidden_act}' is none of "
            "Qwen3-ASR's; it cannot be trained here"
        )
    decoder, encoder = model.model.language_model, model.model.audio_tower
    for layer in decoder.layers:
        maps, mlp = [map_of(getattr(layer.self_attn, name)) for name in _INPUTS], layer.mlp
        lay_together([weight for weight, _, _ in maps])
        lay_together([a for _, a, _ in maps if a is not None])
        lay_together([mlp.gate_proj.weight, mlp.up_proj.weight])
        layer.__class__ = DecoderLayer
    decoder.rotary_emb.__class__, decoder.norm.__class__ = Rotations, LastNorm
    for layer in encoder.layers:
        for kind in ("weight", "bias"):
            lay_together([getattr(getattr(layer.self_attn, name), kind) for name in _INPUTS])
        layer.__class__ = EncoderLayer
    for module in encoder.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = EncoderNorm
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # what the weights leave is in pieces that fit little else


def is_fused(model: PreTrainedModel) -> bool:
    """Whether `fuse_layers` has been there: the decoder then takes `kept_rows`."""
    return isinstance(model.model.language_model.layers[-1], DecoderLayer)


def trains(layer: nn.Module) -> bool:
    return any(weight.requires_grad for weight in layer.parameters())


class EncoderLayer(Qwen3ASRAudioEncoderLayer):
    """Its forward in few calls, where nothing asks for gradients and attention is packed."""

    def forward(
        self,
        hidden_states: Tensor,  # [A, E]
        cu_seqlens: Tensor,
        max_seqlen: int | None = None,  # which packs give
        **kwargs,
    ) -> tuple[Tensor]:
        if max_seqlen is None or (torch.is_grad_enabled() and (hidden_states.requires_grad or trains(self))):
            return super().forward(hidden_states, cu_seqlens, max_seqlen=max_seqlen, **kwargs)
        attention, size = self.self_attn, hidden_states.shape
        inputs = [attention._modules[name]._parameters for name in _INPUTS]
        weight, bias = stacked([of["weight"] for of in inputs]), stacked([of["bias"] for of in inputs])
        heads = F.linear(_layer_norm(hidden_states, self.self_attn_layer_norm), weight, bias)
        query, key, value = heads.view(size[0], 3, -1, attention.head_dim).unbind(1)
        attended = attend(query, key, value, cu_seqlens, max_seqlen, causal=False, scaling=attention.scaling)
        hidden = hidden_states + _linear(attended.reshape(size), attention.out_proj)
        raised = _linear(_layer_norm(hidden, self.final_layer_norm), self.fc1)
        return (hidden + _linear(self.activation_fn(raised), self.fc2),)


def _linear(x: Tensor, module: nn.Linear) -> Tensor:
    weights = module._parameters
    return F.linear(x, weights["weight"], weights["bias"])


def _layer_norm(x: Tensor, module: nn.LayerNorm) -> Tensor:
    weights = module._parameters
    return torch.layer_norm(x, module.normalized_shape, weights["weight"], weights["bias"], module.eps)


class EncoderNorm(nn.LayerNorm):
    """Its weights' gradients are the same for any number of a CPU's threads."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return layer_norm(hidden_states, self.weight, self.bias, self.eps)


class Rotations(Qwen3RotaryEmbedding):
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[R, H]` of hidden states `[B, T, D]`, laid out once for all layers."""
        cos, sin = super().forward(x, position_ids)
        rows = (*x.shape[:2], cos.shape[-1])
        return cos.expand(rows).reshape(-1, rows[-1]), sin.expand(rows).reshape(-1, rows[-1])


class LastNorm(Qwen3RMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        given = (hidden_states.reshape(-1, hidden_states.shape[-1]), self.weight, self.variance_epsilon)
        normed = _Norm.apply(*given) if torch.is_grad_enabled() else rms_norm(*given)[0]
        return normed.view(hidden_states.shape)


class DecoderLayer(Qwen3DecoderLayer):
    def forward(
        self,
        hidden_states: Tensor,  # [B, T, D]
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,  # [R, H] each
        kept_rows: Tensor | None = None,  # [L] of B = 1: those that the last layer gives, `[1, L, D]`
        cache: object | None = None,  # the same, as transformers calls it from 5.24
        draws: Tensor | None = None,  # [2] on the device: of the dropout of adapters of q, k and v, and of o
        **kwargs,
    ) -> Tensor:
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:  # under a third name it would be lost among `kwargs`, and every text be wrong
            raise ModelError(
                f"transformers {transformers.__version__} names the cache of a layer in a way that is not known here; "
                "install the version in constraints.txt"
            )
        modules, shape, wants_graph = self._modules, hidden_states.shape, torch.is_grad_enabled()
        attention, mlp, norm = modules["self_attn"], modules["mlp"]._modules, modules["post_attention_layernorm"]
        projections, hidden = attention._modules, hidden_states.reshape(-1, shape[-1])
        inputs, output = [projections[name] for name in _INPUTS], projections["o_proj"]
        before = (
            hidden, weight_of(modules["input_layernorm"]),
            *(weight_of(projections[name]) for name in ("q_norm", "k_norm")), *position_embeddings,
            norm.variance_epsilon, adapting(inputs, draws, 0), *(w for module in inputs for w in map_of(module)),
        )  # fmt: skip
        if wants_graph:
            query, key, value, hidden = _BeforeAttention.apply(*before)
        else:
            (query, key, value), *_ = _before_attention(*before, in_place=True)
        attended = _attended(attention, query, key, value, shape, attention_mask, cache, **kwargs)
        attended = attended.reshape(hidden.shape[0], -1)
        if kept_rows is not None and attention.layer_idx == attention.config.num_hidden_layers - 1:
            attended, hidden = attended.index_select(0, kept_rows), hidden.index_select(0, kept_rows)
        after = (
            attended, hidden, weight_of(norm), norm.variance_epsilon, adapting([output], draws, 1),
            *(weight_of(mlp[name]) for name in ("gate_proj", "up_proj", "down_proj")), *map_of(output),
        )  # fmt: skip
        found = _AfterAttention.apply(*after) if wants_graph else _after_attention(*after)[0]
        return found.view(shape[0], -1, shape[-1])


def _attended(
    attention: Qwen3Attention,
    query: Tensor,  # [R, N, H]
    key: Tensor,
    value: Tensor,
    shape: torch.Size,  # [B, T, D]
    attention_mask: Tensor | None,
    cache: object | None,
    **kwargs,
) -> Tensor:
    """What the queries of a layer attend to, heads in any shape: packed, or by the function that the model names."""
    segments = kwargs.get("cu_seq_lens_q")
    if segments is not None:
        keys = None
        if cache is not None:
            key, value = cache.keep(key, value, attention.layer_idx)
            keys = (kwargs["cu_seq_lens_k"], kwargs["max_length_k"])
        return attend(
            query, key, value, segments, kwargs["max_length_q"], causal=attention.is_causal,
            scaling=attention.scaling, keys=keys,
        )  # fmt: skip
    heads = (*shape[:2], -1, attention.head_dim)
    query, key, value = (x.view(heads).transpose(1, 2) for x in (query, key, value))
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    return function(
        attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling,
        sliding_window=attention.sliding_window, **kwargs,
    )[0]  # fmt: skip


def _before_attention(hidden, norm, q_norm, k_norm, cos, sin, eps, how, *weights, in_place: bool):
    """Queries, keys and values `[R, N, H]`; with it what the backward pass needs, which `in_place` destroys."""
    normed, _, rstd = rms_norm(hidden, norm, eps)
    maps = threes(weights)
    projected, kept = project(normed, maps, how)
    head_dim = q_norm.shape[0]
    queries, keys, values = (weight.shape[0] // head_dim for weight, _, _ in maps)
    heads = projected.view(-1, queries + keys + values, head_dim)
    rotated = norm_rope(heads, q_norm, k_norm, (queries, keys), cos, sin, eps, in_place=in_place)
    if in_place:
        return heads.split_with_sizes((queries, keys, values), dim=1), heads, normed, rstd, kept
    query, key = rotated.split_with_sizes((queries, keys), dim=1)
    return (query, key, heads.narrow(1, queries + keys, values)), heads, normed, rstd, kept


class _BeforeAttention(torch.autograd.Function):
    """Norm, projections, norms of the heads and rotation; the residual stream passes through to meet its gradient."""

    @staticmethod
    def forward(ctx, hidden, norm, q_norm, k_norm, cos, sin, eps, how, *weights):
        given = (hidden, norm, q_norm, k_norm, cos, sin, eps, how, *weights)
        (query, key, value), heads, normed, rstd, kept = _before_attention(*given, in_place=False)
        ctx.eps, ctx.how = eps, how
        if not any(ctx.needs_input_grad[8:]):
            normed = None
        ctx.save_for_backward(hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, heads, *weights, *kept)
        return query, key, value, hidden

    @staticmethod
    def backward(ctx, dquery, dkey, dvalue, dhidden):
        hidden, norm, q_norm, k_norm, cos, sin, normed, rstd, heads, *weights, draw, low = ctx.saved_tensors
        wants, rotation = ctx.needs_input_grad, (cos, sin, ctx.eps)
        q, k, _ = heads.split([x.shape[1] for x in (dquery, dkey, dvalue)], dim=1)
        dq, dq_norm = norm_rope_backward(dquery.contiguous(), q, q_norm, *rotation, wants_weight=wants[2])
        dk, dk_norm = norm_rope_backward(dkey.contiguous(), k, k_norm, *rotation, wants_weight=wants[3])
        dys = [dy.reshape(len(dy), -1) for dy in (dq, dk, dvalue)]
        dnormed, dweights = project_backward(dys, normed, threes(weights), ctx.how, (draw, low), wants[8::3])
        dx, dnorm = rms_norm_backward(dnormed, hidden, norm, rstd, add=dhidden, wants_weight=wants[1])
        return dx, dnorm, dq_norm, dk_norm, None, None, None, None, *dweights


def _after_attention(attended, hidden, norm, eps, how, gate, up, down, *o):
    """The layer's output; with it what the backward pass needs."""
    projected, kept = project(attended, [o], how)
    normed, middle, rstd = rms_norm(projected, norm, eps, add=hidden)
    gate_up = products(normed, (gate, up))
    return torch.addmm(middle, swiglu(gate_up), down.t()), middle, normed, rstd, gate_up, kept


class _AfterAttention(torch.autograd.Function):
    """Projection of what was attended to, norm and SwiGLU, each added to the residual stream."""

    @staticmethod
    def forward(ctx, attended, hidden, norm, eps, how, gate, up, down, *o):
        given = (attended, hidden, norm, eps, how, gate, up, down, *o)
        output, middle, normed, rstd, gate_up, kept = _after_attention(*given)
        ctx.how = how
        keep_normed = ctx.needs_input_grad[5] or ctx.needs_input_grad[6]
        ctx.save_for_backward(
            attended, middle, norm, rstd, normed if keep_normed else None, gate_up, gate, up, down, *o, *kept
        )
        return output

    @staticmethod
    def backward(ctx, dout):
        attended, middle, norm, rstd, normed, gate_up, gate, up, down, *o, draw, low = ctx.saved_tensors
        wants = ctx.needs_input_grad
        dout = dout.contiguous()
        product = dout @ down  # its gradient; then, where it is wanted, the product itself
        swiglu_backward_(product, gate_up, wants_product=wants[7])
        ddown = dout.t() @ product if wants[7] else None
        del product
        dgate, dup = (None, None) if normed is None else (gate_up.t() @ normed).chunk(2)
        dgated, draised = gate_up.chunk(2, dim=1)
        dnormed = (dgated @ gate).addmm_(draised, up)
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
