"""Passes over rows between matrix products, and over weights, each one read and one write: Triton on CUDA.

Elsewhere the same functions in torch's operations, with the same rounding: as transformers computes them, in float32
with a rounding to the model's precision before each weight.

Shapes: T rows, D model dim, F inner dim, N heads, H head dim, L label positions, V vocabulary. All contiguous,
but where a function says that rows may lie apart.
"""

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw

from shibolet.errors import ModelError
from shibolet.model.fast import rows


def rms_norm(x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised `x + add` `[T, D]`, that sum (`x` itself without `add`), and 1 / deviation `[T]` in float32."""
    if x.is_cuda:
        return _triton().rms_norm(x, weight, eps, add)
    total = x if add is None else x + add
    wide = total.float()
    rstd = torch.rsqrt(wide.pow(2).mean(-1) + eps)
    return weight * (wide * rstd[:, None]).to(x.dtype), total, rstd


def rms_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, *, add: Tensor | None = None, wants_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of what was normalised, plus `add`, and of the weight; `x` is the sum that `rms_norm` gave."""
    if x.is_cuda:
        return _triton().rms_norm_backward(dy, x, weight, rstd, add, wants_weight)
    dx, dw = _norm_backward(dy.float(), x.float(), weight, rstd[:, None])
    dx = dx if add is None else dx + add
    return dx.to(dy.dtype), dw.to(weight.dtype) if wants_weight else None


def norm_rope(
    heads: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    nums: tuple[int, int],
    cos: Tensor,
    sin: Tensor,
    eps: float,
    *,
    in_place: bool = False,
) -> Tensor:
    """The first heads of each row, `nums` of queries and keys, normalised, then rotated by `cos` and `sin` `[T, H]`.

    `heads` are `[T, N, H]`; their rows may lie apart. In place the other heads stay; else they are left out.
    """
    if heads.is_cuda:
        return _triton().norm_rope(heads, query_norm, key_norm, nums, cos, sin, eps, in_place)
    rotated = heads[:, : sum(nums)]
    wide, weight = rotated.float(), torch.cat((query_norm.expand(nums[0], -1), key_norm.expand(nums[1], -1)))
    y = weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(heads.dtype)
    low, high = y.chunk(2, dim=-1)
    y = y * cos[:, None] + torch.cat((-high, low), dim=-1) * sin[:, None]
    if not in_place:
        return y
    rotated.copy_(y)
    return heads


def norm_rope_backward(
    dy: Tensor, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, *, wants_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of heads `[T, N, H]` of one kind before their norm, and of its weight; rows of `x` may lie apart."""
    if x.is_cuda:
        return _triton().norm_rope_backward(dy, x, weight, cos, sin, eps, wants_weight)
    wide, dy_wide = x.float(), dy.float()
    low, high = (dy_wide * sin[:, None]).chunk(2, dim=-1)
    dnormed = dy_wide * cos[:, None] + torch.cat((high, -low), dim=-1)
    dx, dw = _norm_backward(dnormed, wide, weight, torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps))
    return dx.to(dy.dtype), dw.to(weight.dtype) if wants_weight else None


def _norm_backward(dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    normed = x * rstd
    dw = (dy * normed).flatten(0, -2).sum(0)
    dnormed = dy * weight
    return rstd * (dnormed - normed * (dnormed * normed).mean(-1, keepdim=True)), dw


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Layer-normalised `x + add` `[T, D]`, that sum (`x` itself without `add`), mean and 1 / deviation in float32.

    Both of these are `[T, 1]`.
    """
    if x.is_cuda:
        return _triton().layer_norm(x, weight, bias, eps, add)
    total = x if add is None else x + add
    wide = (tensor.float() for tensor in (weight, bias))
    y, mean, rstd = torch.native_layer_norm(total.float(), weight.shape, *wide, eps)
    return y.to(x.dtype), total, mean, rstd


def layer_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    *,
    add: Tensor | None = None,
    wants_weight: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of what was normalised, plus `add`, of weight and bias; `x` is the sum that `layer_norm` gave."""
    if x.is_cuda:
        return _triton().layer_norm_backward(dy, x, weight, mean, rstd, add, wants_weight)
    dy_wide, x_wide, w = (tensor.float() for tensor in (dy, x, weight))
    wants = (True, wants_weight, wants_weight)
    dx, dw, db = rows.layer_norm_backward(dy_wide, x_wide, w, w, mean, rstd, wants)  # a bias is as long as a weight
    dx = dx if add is None else dx + add
    return dx.to(dy.dtype), *((dw.to(weight.dtype), db.to(weight.dtype)) if wants_weight else (None, None))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    causal: bool,
    scaling: float,
    keys: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Attention of heads `[T, N, H]` within each segment between `cu_seqlens` `[segments + 1]`, int32.

    Keys and values may have fewer heads, each for a group of the queries'. They may have segments of their own, `keys`
    (boundaries and the longest); the last query of a segment then stands at its last key. On CUDA torch's
    FlashAttention 2, called as `varlen_attn` calls it, whose wrappers take the host three times as long. It takes 16
    bits only: float32, where autocast does not round it, goes segment by segment everywhere, exact and slow.
    """
    cu_keys, max_keys = keys or (cu_seqlens, max_seqlen)
    half = query.dtype if query.dtype != torch.float32 else _autocast_dtype()
    if query.is_cuda and half is not None:
        q, k, v = (query, key, value) if half == query.dtype else (x.to(half) for x in (query, key, value))
        return torch.ops.aten._flash_attention_forward(
            q, k, v, cu_seqlens, cu_keys, max_seqlen, max_keys, 0.0, causal, False, scale=scaling
        )[0]
    grouped = query.shape[1] != key.shape[1]
    by_segment = (
        x.transpose(0, 1)[None].split(at.diff().tolist(), dim=2)
        for x, at in ((query, cu_seqlens), (key, cu_keys), (value, cu_keys))
    )
    parts = [
        F.scaled_dot_product_attention(q, k, v, **_causal(q, k, causal), scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*by_segment, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _causal(query: Tensor, key: Tensor, causal: bool) -> dict[str, bool | Tensor]:
    """What tells torch that the last query stands at the last key; by itself it puts the first at the first."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    if not causal or num_queries == num_keys:
        return {"is_causal": causal}
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device)
    return {"attn_mask": mask.tril(num_keys - num_queries)}


def attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    done: Tensor,
    *,
    seen: int,
    scaling: float,
) -> Tensor:
    """Attention of one token a row to what stands before `position` `[R]` in its row and to itself, as `query`.

    The token's key and value `[R, N, H]` are put into `keys` and `values` `[R, P, N, H]` at its position; `query` is
    `[R, N * G, H]`; the rows of these three may lie apart. No position lies beyond `seen`, and what a row gives that
    is `done` is no more than a number.
    """
    if query.is_cuda:
        return _triton().attend_rows(query, key, value, keys, values, position, done, scaling)
    row = torch.arange(len(query))
    keys[row, position], values[row, position] = key, value
    visible = torch.arange(seen)[None] <= position[:, None]
    grouped = query.reshape(*key.shape[:2], -1, key.shape[2])  # the queries of a key stand where a sequence's would
    by_head = (x[:, :seen].transpose(1, 2) for x in (keys, values))
    return F.scaled_dot_product_attention(grouped, *by_head, attn_mask=visible[:, None, None], scale=scaling).view(
        query.shape
    )


def _autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up`, `[T, F]`, of both side by side, `[T, 2 * F]`."""
    if gate_up.is_cuda:
        return _triton().swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def swiglu_backward_(dproduct: Tensor, gate_up: Tensor, *, wants_product: bool) -> None:
    """Put the gradients of gate and up in their places and, where it is wanted, the product in its gradient's."""
    if gate_up.is_cuda:
        _triton().swiglu_backward_(dproduct, gate_up, wants_product)
        return
    gate, up = gate_up.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate.float())
    silu, product = gate * sigmoid, F.silu(gate) * up
    dgate, dup = dproduct * up * (sigmoid + silu * (1 - sigmoid)), dproduct * silu
    gate.copy_(dgate)
    up.copy_(dup)
    if wants_product:
        dproduct.copy_(product)


def gelu_backward_(dproduct: Tensor, x: Tensor, *, wants_product: bool, wants_sum: bool) -> Tensor | None:
    """Put the gradient of x `[T, F]` in its place and, where it is wanted, `gelu(x)` in the place of its gradient.

    Returns the sum `[F]` of that gradient over rows, which is that of a bias, where it is wanted.
    """
    if x.is_cuda:
        return _triton().gelu_backward_(dproduct, x, wants_product, wants_sum)
    product = F.gelu(x) if wants_product else None
    x.copy_(torch.ops.aten.gelu_backward(dproduct, x))
    if product is not None:
        dproduct.copy_(product)
    return x.sum(0) if wants_sum else None


def cross_entropy_(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each row of logits `[L, V]`, float32 `[L]`; the logits become its gradient."""
    if logits.is_cuda:
        return _triton().cross_entropy_(logits, labels)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    losses = -log_probs.gather(1, labels[:, None])[:, 0]
    gradient = log_probs.exp_()
    gradient[torch.arange(len(labels)), labels] -= 1
    logits.copy_(gradient)
    return losses


def scale_(x: Tensor, factor: Tensor) -> None:
    """`x` times a float32 factor, in place."""
    if x.is_cuda:
        _triton().scale_(x, factor)
    else:
        x.mul_(factor)


def drop_and_project(
    x: Tensor, a: Tensor, rate: float, scaling: float, draw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`scaling * dropout(x) A^T` `[T, rank]` of an adapter's A `[rank, D]`, and the draw that its backward pass needs.

    On CUDA the draw is a seed on the device, from which the mask is made again: the one that is given, or one of
    torch's generator. Elsewhere it is the mask itself.
    """
    if x.is_cuda:
        return _triton().drop_and_project(x, a, rate, scaling, draw)
    dropped, mask = torch.native_dropout(x, rate, True)
    return (dropped @ a.t()).mul_(scaling), mask


def drop_and_project_backward_(
    dlow: Tensor, x: Tensor, a: Tensor, rate: float, scaling: float, draw: Tensor, dx: Tensor
) -> Tensor:
    """The gradient of A; that of `x` is added to `dx`."""
    if x.is_cuda:
        return _triton().drop_and_project_backward_(dlow, x, a, rate, scaling, draw, dx)
    drop = lambda y: torch.ops.aten.native_dropout_backward(y, draw, 1 / (1 - rate))  # noqa: E731
    dx.add_(drop(dlow @ a), alpha=scaling)
    return (dlow.t() @ drop(x)).mul_(scaling)


def adamw_(
    weights: Sequence[Tensor],
    masters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    steps: Sequence[int],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    scale: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """A step of AdamW with gradients times `scale`: float32 masters first, each weight is its master rounded.

    `steps` are the numbers of this step, from 1; a weight may be its own master. A `scale` of NaN changes
    nothing.
    """
    if weights[0].is_cuda:
        gradients = [gradient.contiguous() for gradient in gradients]
        _triton().adamw_(weights, masters, gradients, steps, exp_avgs, exp_avg_sqs, scale, lr, betas, eps, weight_decay)
        return
    if scale.isnan():
        return
    adamw(
        masters, [gradient.float() * scale for gradient in gradients], exp_avgs, exp_avg_sqs, [],
        [torch.tensor(step - 1.0) for step in steps], fused=True, amsgrad=False, beta1=betas[0], beta2=betas[1], lr=lr,
        weight_decay=weight_decay, eps=eps, maximize=False,
    )  # fmt: skip
    for weight, master in zip(weights, masters, strict=True):
        if weight.dtype != master.dtype:
            weight.copy_(master)


@cache
def _triton() -> ModuleType:
    try:
        from shibolet.model.fast import triton_kernels
    except ImportError as error:
        raise ModelError(
            f"a model on a GPU needs Triton, which torch for CUDA brings along ({error}); install torch for your CUDA"
        ) from error
    return triton_kernels
