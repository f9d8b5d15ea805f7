"""The passes of `model.fast.kernels` on CUDA, one program a row or a few; all arithmetic in float32.

Loads and stores are in the tensors' own precision, and what transformers rounds in between (a normalised value before
its weight, a gate before its product) is rounded here too. `TRITON_INTERPRET=1` runs them on a CPU, slowly, for tests.
Numbers that change from step to step are not specialised on, so that a kernel is compiled in the first one alone.

Shapes: T rows, D model dim, N heads, H head dim, V vocabulary.
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from shibolet.model.fast.device import send_to

_ROW_PROGRAMS = 1056  # of a kernel that sums over rows: eight for each of a Hopper's 132 multiprocessors
_FLAT_BLOCK, _GATE_BLOCK, _VOCAB_BLOCK = 2048, 1024, 8192
_SUM_PARTS, _SUM_BLOCK = 64, 16
_KEY_BLOCK = 64  # keys of a row that one program reads at a time
_ADAPTER_ROWS, _ADAPTER_COLUMNS, _ADAPTER_PROGRAMS = 32, 64, 64
_MOST_RANKS = 64  # of adapters in one launch: their sums have to fit registers


@triton.jit
def _rms_norm(x, add, weight, y, total, rstd, dim, eps, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < dim
    at = row * dim + column
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        h = (h + tl.load(add + at, mask=inside, other=0.0).to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + at, h, mask=inside)
        h = h.to(tl.float32)
    r = 1 / tl.sqrt(tl.sum(h * h) / dim + eps)
    tl.store(rstd + row, r)
    normed = (h * r).to(y.dtype.element_ty).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, normed * w, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm_backward(
    dy, x, weight, rstd, add, dx, dw, num_rows, dim, HAS_ADD: tl.constexpr, HAS_DW: tl.constexpr, BLOCK: tl.constexpr
):
    column = tl.arange(0, BLOCK)
    inside = column < dim
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    summed = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), num_rows, tl.num_programs(0)):
        at = row * dim + column
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(rstd + row)
        normed = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * r
        if HAS_DW:
            summed += g * normed
        g *= w
        g = r * (g - normed * (tl.sum(g * normed) / dim))
        if HAS_ADD:
            g += tl.load(add + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, g, mask=inside)
    if HAS_DW:
        tl.store(dw + tl.program_id(0) * dim + column, summed, mask=inside)


@triton.jit
def _layer_norm(
    x, add, weight, bias, y, total, mean, rstd, dim, eps, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < dim
    at = row * dim + column
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        h = (h + tl.load(add + at, mask=inside, other=0.0).to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + at, h, mask=inside)
        h = h.to(tl.float32)
    m = tl.sum(h) / dim
    h = tl.where(inside, h - m, 0.0)
    r = 1 / tl.sqrt(tl.sum(h * h) / dim + eps)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, h * r * w + b, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _layer_norm_backward(
    dy, x, weight, mean, rstd, add, dx, dw, db, num_rows, dim,
    HAS_ADD: tl.constexpr, HAS_DW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    inside = column < dim
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    dw_sum, db_sum = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), num_rows, tl.num_programs(0)):
        at = row * dim + column
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(rstd + row)
        normed = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - tl.load(mean + row)) * r
        if HAS_DW:
            dw_sum += g * normed
            db_sum += g
        g *= w  # 0 outside
        g = r * (g - tl.sum(g) / dim - normed * (tl.sum(g * normed) / dim))
        if HAS_ADD:
            g += tl.load(add + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, g, mask=inside)
    if HAS_DW:
        own = tl.program_id(0) * dim + column
        tl.store(dw + own, dw_sum, mask=inside)
        tl.store(db + own, db_sum, mask=inside)


@triton.jit
def _halves(x, at, inside, HALF: tl.constexpr):
    low = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    return low, high


@triton.jit
def _norm_rope(
    x, query_norm, key_norm, cos, sin, y, x_stride, y_stride, num_queries, num_heads, eps,
    HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (head < num_heads) & (column < HALF)
    at = head * 2 * HALF + column
    low, high = _halves(x + row * x_stride, at, inside, HALF)
    r = 1 / tl.sqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + eps)[:, None]
    kind = y.dtype.element_ty
    q_low, q_high = _halves(query_norm, column, column < HALF, HALF)
    k_low, k_high = _halves(key_norm, column, column < HALF, HALF)
    w_low, w_high = tl.where(head < num_queries, q_low, k_low), tl.where(head < num_queries, q_high, k_high)
    low = ((low * r).to(kind).to(tl.float32) * w_low).to(kind).to(tl.float32)
    high = ((high * r).to(kind).to(tl.float32) * w_high).to(kind).to(tl.float32)
    c_low, c_high = _halves(cos, row * 2 * HALF + column, column < HALF, HALF)
    s_low, s_high = _halves(sin, row * 2 * HALF + column, column < HALF, HALF)
    at += row * y_stride
    tl.store(y + at, low * c_low - high * s_low, mask=inside)
    tl.store(y + at + HALF, high * c_high + low * s_high, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _norm_rope_backward(
    dy, x, weight, cos, sin, dx, dw, x_stride, num_rows, num_heads, eps,
    HAS_DW: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (head < num_heads) & (column < HALF)
    w_low, w_high = _halves(weight, column, column < HALF, HALF)
    sum_low, sum_high = tl.zeros((HEADS, BLOCK), tl.float32), tl.zeros((HEADS, BLOCK), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), num_rows, tl.num_programs(0)):
        c_low, c_high = _halves(cos, row * 2 * HALF + column, column < HALF, HALF)
        s_low, s_high = _halves(sin, row * 2 * HALF + column, column < HALF, HALF)
        at = (row * num_heads + head) * 2 * HALF + column
        low, high = _halves(dy, at, inside, HALF)
        g_low, g_high = low * c_low + high * s_high, high * c_high - low * s_low
        x_low, x_high = _halves(x + row * x_stride, head * 2 * HALF + column, inside, HALF)
        r = 1 / tl.sqrt((tl.sum(x_low * x_low, 1) + tl.sum(x_high * x_high, 1)) / (2 * HALF) + eps)[:, None]
        x_low *= r
        x_high *= r
        if HAS_DW:
            sum_low += g_low * x_low
            sum_high += g_high * x_high
        g_low *= w_low
        g_high *= w_high
        mean = ((tl.sum(g_low * x_low, 1) + tl.sum(g_high * x_high, 1)) / (2 * HALF))[:, None]
        tl.store(dx + at, r * (g_low - x_low * mean), mask=inside)
        tl.store(dx + at + HALF, r * (g_high - x_high * mean), mask=inside)
    if HAS_DW:
        own = dw + tl.program_id(0) * 2 * HALF + tl.arange(0, BLOCK)
        tl.store(own, tl.sum(sum_low, 0), mask=tl.arange(0, BLOCK) < HALF)
        tl.store(own + HALF, tl.sum(sum_high, 0), mask=tl.arange(0, BLOCK) < HALF)


@triton.jit
def _swiglu(gate_up, product, dim, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, gate, at = column < dim, gate_up + row * 2 * dim + column, row * dim + column
    g = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gate + dim, mask=inside, other=0.0).to(tl.float32)
    silu = (g * tl.sigmoid(g)).to(product.dtype.element_ty).to(tl.float32)
    tl.store(product + at, silu * u, mask=inside)


@triton.jit
def _swiglu_backward(dproduct, gate_up, dim, HAS_PRODUCT: tl.constexpr, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, gate, at = column < dim, gate_up + row * 2 * dim + column, row * dim + column
    d = tl.load(dproduct + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gate + dim, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    silu = g * s
    tl.store(gate, d * u * (s + silu * (1 - s)), mask=inside)
    tl.store(gate + dim, d * silu, mask=inside)
    if HAS_PRODUCT:
        tl.store(dproduct + at, silu.to(gate_up.dtype.element_ty).to(tl.float32) * u, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _gelu_backward(
    dproduct, x, sums, num_rows, dim, HAS_PRODUCT: tl.constexpr, HAS_SUM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, summed = column < dim, tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), num_rows, tl.num_programs(0)):
        at = row * dim + column
        d = tl.load(dproduct + at, mask=inside, other=0.0).to(tl.float32)
        h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        share = 0.5 * (1 + tl.erf(h * 0.7071067811865476))
        d *= share + h * tl.exp(-0.5 * h * h) * 0.3989422804014327
        if HAS_SUM:
            summed += d
        tl.store(x + at, d, mask=inside)
        if HAS_PRODUCT:
            tl.store(dproduct + at, h * share, mask=inside)
    if HAS_SUM:
        tl.store(sums + tl.program_id(0) * dim + column, summed, mask=inside)


@triton.jit(do_not_specialize=["num_positions"])
def _attend_rows(
    query, key, value, keys, values, position, done, out, query_stride, key_stride, value_stride, scaling,
    num_positions,
    HEADS: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column, group = tl.arange(0, DIM), tl.arange(0, PADDED)
    at = tl.load(position + row)
    length = tl.where(tl.load(done + row) != 0, 0, at)
    own = head * DIM + column
    k, v = tl.load(key + row * key_stride + own), tl.load(value + row * value_stride + own)
    place = ((row * num_positions + at) * HEADS + head) * DIM + column
    tl.store(keys + place, k)
    tl.store(values + place, v)
    queries = (head * GROUP + group)[:, None] * DIM + column[None, :]
    asked = (group < GROUP)[:, None]
    q = tl.load(query + row * query_stride + queries, mask=asked, other=0.0)
    highest = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], axis=1) * scaling  # of the own key
    summed = tl.full((PADDED,), 1.0, tl.float32)
    total = tl.zeros((PADDED, DIM), tl.float32) + v.to(tl.float32)[None, :]
    for first in range(0, length, BLOCK):
        seen = first + tl.arange(0, BLOCK)
        inside = seen < length
        block = ((row * num_positions + seen) * HEADS + head)[:, None] * DIM + column[None, :]
        k_block = tl.load(keys + block, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k_block), input_precision="ieee") * scaling
        scores = tl.where(inside[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights, shrunk = tl.exp(scores - higher[:, None]), tl.exp(highest - higher)
        v_block = tl.load(values + block, mask=inside[:, None], other=0.0)
        summed = summed * shrunk + tl.sum(weights, axis=1)
        attended = tl.dot(weights.to(v_block.dtype), v_block, input_precision="ieee")
        total = total * shrunk[:, None] + attended
        highest = higher
    tl.store(out + row * HEADS * GROUP * DIM + queries, total / summed[:, None], mask=asked)


@triton.jit(do_not_specialize_on_alignment=["labels"])  # which may begin anywhere in a pack's
def _cross_entropy(logits, labels, losses, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    own = logits + row * vocab
    label = tl.load(labels + row)
    wanted = tl.load(own + label).to(tl.float32)  # before the sums, whose barriers keep it ahead of the stores below
    highest, summed = -float("inf"), 0.0
    for first in range(0, vocab, BLOCK):
        column = first + tl.arange(0, BLOCK)
        x = tl.load(own + column, mask=column < vocab, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(x))
        summed = summed * tl.exp(highest - higher) + tl.sum(tl.exp(x - higher))
        highest = higher
    tl.store(losses + row, highest + tl.log(summed) - wanted)
    for first in range(0, vocab, BLOCK):
        column = first + tl.arange(0, BLOCK)
        x = tl.load(own + column, mask=column < vocab, other=-float("inf")).to(tl.float32)
        gradient = tl.exp(x - highest) / summed - tl.where(column == label, 1.0, 0.0)
        tl.store(own + column, gradient, mask=column < vocab)


@triton.jit
def _scale(x, factor, numel, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scaled = tl.load(x + at, mask=at < numel).to(tl.float32) * tl.load(factor)
    tl.store(x + at, scaled, mask=at < numel)


@triton.jit
def _draw(seed, row, column, dim):
    """Random numbers of 32 bits for four tiles `column` apart: the low halves are for one tile of rows, the high halves
    for the next."""
    return tl.randint4x(seed, row * dim + column[None, :], n_rounds=7)


@triton.jit
def _is_kept(drawn, half: tl.constexpr, threshold):
    return ((drawn.to(tl.uint32, bitcast=True) >> (16 * half)) & 0xFFFF) >= threshold


@triton.jit
def _adapter_tile(a, r, column, rank, dim):
    return tl.load(
        a + r[:, None] * dim + column[None, :], mask=(r[:, None] < rank) & (column[None, :] < dim), other=0.0
    )


@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["seed"])
def _drop_and_project(
    x, a, low, seed, threshold, scale, num_rows, dim, rank, low_stride,
    ROWS: tl.constexpr, RANK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, r = tl.program_id(0) * 2 * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, RANK)
    seeded = tl.load(seed)
    sum0, sum1 = tl.zeros((ROWS, RANK), tl.float32), tl.zeros((ROWS, RANK), tl.float32)
    for first in range(0, dim, 4 * COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        draws = _draw(seeded, row, column, dim)
        for quarter in tl.static_range(4):
            own = column + quarter * COLUMNS
            weight = tl.trans(_adapter_tile(a, r, own, rank, dim))
            for half in tl.static_range(2):
                at = row + half * ROWS
                tile = tl.load(x + at * dim + own[None, :], mask=(at < num_rows) & (own[None, :] < dim), other=0.0)
                tile = tl.where(_is_kept(draws[quarter], half, threshold), tile, tl.zeros_like(tile))
                product = tl.dot(tile, weight, input_precision="ieee")
                if half == 0:
                    sum0 += product
                else:
                    sum1 += product
    tl.store(low + row * low_stride + r[None, :], sum0 * scale, mask=(row < num_rows) & (r[None, :] < rank))
    row += ROWS
    tl.store(low + row * low_stride + r[None, :], sum1 * scale, mask=(row < num_rows) & (r[None, :] < rank))


@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=["seed"])
def _drop_and_project_backward(
    dlow, x, a, dx, da, seed, threshold, scale, num_rows, dim, rank, low_stride,
    ROWS: tl.constexpr, RANK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    r, column = tl.arange(0, RANK), tl.program_id(1) * 4 * COLUMNS + tl.arange(0, COLUMNS)
    sum0, sum1 = tl.zeros((COLUMNS, RANK), tl.float32), tl.zeros((COLUMNS, RANK), tl.float32)
    sum2, sum3 = tl.zeros((COLUMNS, RANK), tl.float32), tl.zeros((COLUMNS, RANK), tl.float32)
    seeded = tl.load(seed)
    for first in range(tl.program_id(0) * 2 * ROWS, num_rows, tl.num_programs(0) * 2 * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        draws = _draw(seeded, row, column, dim)
        for half in tl.static_range(2):
            own_row = row + half * ROWS
            g = tl.load(
                dlow + own_row * low_stride + r[None, :], mask=(own_row < num_rows) & (r[None, :] < rank), other=0.0
            )
            for quarter in tl.static_range(4):
                own = column + quarter * COLUMNS
                inside, at = (own_row < num_rows) & (own[None, :] < dim), own_row * dim + own[None, :]
                kept = _is_kept(draws[quarter], half, threshold)
                tile = tl.load(x + at, mask=inside, other=0.0)
                product = tl.dot(tl.trans(tl.where(kept, tile, tl.zeros_like(tile))), g, input_precision="ieee")
                if quarter == 0:
                    sum0 += product
                elif quarter == 1:
                    sum1 += product
                elif quarter == 2:
                    sum2 += product
                else:
                    sum3 += product
                back = tl.dot(g, _adapter_tile(a, r, own, rank, dim), input_precision="ieee") * scale
                before = tl.load(dx + at, mask=inside, other=0.0).to(tl.float32)
                tl.store(dx + at, before + tl.where(kept, back, 0.0), mask=inside)
    for quarter in tl.static_range(4):
        summed = sum0 if quarter == 0 else sum1 if quarter == 1 else sum2 if quarter == 2 else sum3
        own = column + quarter * COLUMNS
        at = (tl.program_id(0) * rank + r[None, :]) * dim + own[:, None]
        tl.store(da + at, summed * scale, mask=(r[None, :] < rank) & (own[:, None] < dim))


@triton.jit(do_not_specialize=["num_parts"])
def _sum_parts(parts, total, num_parts, numel, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    part, at = tl.arange(0, PARTS)[:, None], tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((PARTS, BLOCK), tl.float32)
    for first in range(0, num_parts, PARTS):
        inside = (first + part < num_parts) & (at[None, :] < numel)
        summed += tl.load(parts + (first + part) * numel + at[None, :], mask=inside, other=0.0)
    tl.store(total + at, tl.sum(summed, 0), mask=at < numel)


@triton.jit
def _address(addresses, tensor, which: tl.constexpr, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    return tl.multiple_of(tl.load(addresses + 6 * tensor + which).to(tl.pointer_type(KIND)), ALIGNED)


@triton.jit
def _adamw(
    addresses, corrections, owner, begin, scale, lr, beta1, beta2, eps, weight_decay,
    KIND: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    factor = tl.load(scale)
    if factor != factor:  # NaN: the step is refused
        return
    tensor = tl.load(owner + tl.program_id(0))
    weight = _address(addresses, tensor, 0, KIND, ALIGNED)
    gradient = _address(addresses, tensor, 1, KIND, ALIGNED)
    master = _address(addresses, tensor, 2, tl.float32, ALIGNED)
    exp_avg = _address(addresses, tensor, 3, tl.float32, ALIGNED)
    exp_avg_sq = _address(addresses, tensor, 4, tl.float32, ALIGNED)
    first = tl.load(begin + tl.program_id(0)).to(tl.int64) * BLOCK
    at, numel = first + tl.arange(0, BLOCK), tl.load(addresses + 6 * tensor + 5)
    correction1, correction2 = tl.load(corrections + 2 * tensor), tl.load(corrections + 2 * tensor + 1)
    where, how = (weight, gradient, master, exp_avg, exp_avg_sq), (lr, beta1, beta2, eps, weight_decay)
    if first + BLOCK <= numel:  # without a mask loads are of 16 bytes
        _adamw_block(where, at, None, factor, how, correction1, correction2, KIND)
    else:
        _adamw_block(where, at, at < numel, factor, how, correction1, correction2, KIND)


@triton.jit
def _adamw_block(where, at, inside, scale, how, correction1, correction2, KIND: tl.constexpr):
    weight, gradient, master, exp_avg, exp_avg_sq = where
    lr, beta1, beta2, eps, weight_decay = how
    g = tl.load(gradient + at, mask=inside).to(tl.float32) * scale
    w = tl.load(master + at, mask=inside)
    m = tl.load(exp_avg + at, mask=inside)
    v = tl.load(exp_avg_sq + at, mask=inside)
    w -= lr * weight_decay * w
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w -= lr / correction1 * m / (tl.sqrt(v) / tl.sqrt(correction2) + eps)
    tl.store(master + at, w, mask=inside)
    tl.store(exp_avg + at, m, mask=inside)
    tl.store(exp_avg_sq + at, v, mask=inside)
    if KIND != tl.float32:
        tl.store(weight + at, w, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, add: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    rows, dim = x.shape
    y, total = torch.empty_like(x), x if add is None else torch.empty_like(x)
    rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
    _rms_norm[(rows,)](
        x, add, weight, y, total, rstd, dim, eps, HAS_ADD=add is not None, BLOCK=_power(dim), num_warps=_warps(dim)
    )
    return y, total, rstd


def rms_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, add: Tensor | None, wants_weight: bool
) -> tuple[Tensor, Tensor | None]:
    rows, dim = x.shape
    programs, dx = min(rows, _ROW_PROGRAMS), torch.empty_like(dy)
    dw = torch.empty(programs, dim, dtype=torch.float32, device=x.device) if wants_weight else None
    _rms_norm_backward[(programs,)](
        dy, x, weight, rstd, add, dx, dw, rows, dim, HAS_ADD=add is not None, HAS_DW=wants_weight, BLOCK=_power(dim),
        num_warps=_warps(dim),
    )  # fmt: skip
    return dx, _sum(dw, weight.dtype) if wants_weight else None


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, dim = x.shape
    y, total = torch.empty_like(x), x if add is None else torch.empty_like(x)
    mean, rstd = torch.empty(2, rows, 1, dtype=torch.float32, device=x.device)
    _layer_norm[(rows,)](
        x, add, weight, bias, y, total, mean, rstd, dim, eps, HAS_ADD=add is not None, BLOCK=_power(dim),
        num_warps=_warps(dim),
    )  # fmt: skip
    return y, total, mean, rstd


def layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, add: Tensor | None, wants_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    rows, dim = x.shape
    programs, dx = min(rows, _ROW_PROGRAMS), torch.empty_like(dy)
    dw = db = None
    if wants_weight:
        dw, db = torch.empty(2, programs, dim, dtype=torch.float32, device=x.device)
    _layer_norm_backward[(programs,)](
        dy, x, weight, mean, rstd, add, dx, dw, db, rows, dim, HAS_ADD=add is not None, HAS_DW=wants_weight,
        BLOCK=_power(dim), num_warps=_warps(dim),
    )  # fmt: skip
    return dx, *((_sum(dw, weight.dtype), _sum(db, weight.dtype)) if wants_weight else (None, None))


def norm_rope(
    heads: Tensor, query_norm: Tensor, key_norm: Tensor, nums: tuple[int, int], cos: Tensor, sin: Tensor, eps: float,
    in_place: bool,
) -> Tensor:  # fmt: skip
    rows, dim, num_heads = heads.shape[0], heads.shape[2], sum(nums)
    y = heads if in_place else torch.empty(rows, num_heads, dim, dtype=heads.dtype, device=heads.device)
    _norm_rope[(rows,)](
        heads, query_norm, key_norm, cos, sin, y, heads.stride(0), y.stride(0), nums[0], num_heads, eps,
        HALF=dim // 2, HEADS=_power(num_heads), BLOCK=_power(dim // 2), num_warps=4,
    )  # fmt: skip
    return y


def norm_rope_backward(
    dy: Tensor, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, wants_weight: bool
) -> tuple[Tensor, Tensor | None]:
    rows, heads, dim = x.shape
    programs, dx = min(rows, _ROW_PROGRAMS), torch.empty_like(dy)
    dw = torch.empty(programs, dim, dtype=torch.float32, device=x.device) if wants_weight else None
    _norm_rope_backward[(programs,)](
        dy, x, weight, cos, sin, dx, dw, x.stride(0), rows, heads, eps, HAS_DW=wants_weight, HALF=dim // 2,
        HEADS=_power(heads), BLOCK=_power(dim // 2), num_warps=4,
    )  # fmt: skip
    return dx, _sum(dw, weight.dtype) if wants_weight else None


def swiglu(gate_up: Tensor) -> Tensor:
    rows, dim = len(gate_up), gate_up.shape[1] // 2
    product = torch.empty(rows, dim, dtype=gate_up.dtype, device=gate_up.device)
    _swiglu[(rows, triton.cdiv(dim, _GATE_BLOCK))](gate_up, product, dim, BLOCK=_GATE_BLOCK, num_warps=4)
    return product


def swiglu_backward_(dproduct: Tensor, gate_up: Tensor, wants_product: bool) -> None:
    rows, dim = dproduct.shape
    _swiglu_backward[(rows, triton.cdiv(dim, _GATE_BLOCK))](
        dproduct, gate_up, dim, HAS_PRODUCT=wants_product, BLOCK=_GATE_BLOCK, num_warps=4
    )


def gelu_backward_(dproduct: Tensor, x: Tensor, wants_product: bool, wants_sum: bool) -> Tensor | None:
    rows, dim = x.shape
    blocks = triton.cdiv(dim, _GATE_BLOCK)
    programs = min(rows, triton.cdiv(_ROW_PROGRAMS, blocks))
    sums = torch.empty(programs, dim, dtype=torch.float32, device=x.device) if wants_sum else None
    _gelu_backward[(programs, blocks)](
        dproduct, x, sums, rows, dim, HAS_PRODUCT=wants_product, HAS_SUM=wants_sum, BLOCK=_GATE_BLOCK, num_warps=4
    )
    return _sum(sums, x.dtype) if wants_sum else None


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, position: Tensor, done: Tensor,
    scaling: float,
) -> Tensor:  # fmt: skip
    rows, num_positions, heads, dim = keys.shape
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    group = query.shape[1] // heads
    _attend_rows[(rows, heads)](
        query, key, value, keys, values, position, done, out, query.stride(0), key.stride(0), value.stride(0), scaling,
        num_positions, HEADS=heads, GROUP=group, PADDED=max(16, _power(group)), DIM=dim, BLOCK=_KEY_BLOCK, num_warps=4,
        num_stages=3,
    )  # fmt: skip
    return out


def cross_entropy_(logits: Tensor, labels: Tensor) -> Tensor:
    losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
    vocab = logits.shape[1]
    block = min(_VOCAB_BLOCK, _power(vocab))
    _cross_entropy[(len(labels),)](logits, labels, losses, vocab, BLOCK=block, num_warps=16 if block > 4096 else 4)
    return losses


def scale_(x: Tensor, factor: Tensor) -> None:
    _scale[(triton.cdiv(x.numel(), _FLAT_BLOCK),)](x, factor, x.numel(), BLOCK=_FLAT_BLOCK, num_warps=8)


def drop_and_project(
    x: Tensor, a: Tensor, rate: float, scaling: float, draw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    rows, dim = x.shape
    draw = send_to(x.device, torch.randint(1 << 31, ())) if draw is None else draw
    low = torch.empty(rows, len(a), dtype=x.dtype, device=x.device)
    for own_a, own_low in zip(a.split(_MOST_RANKS), low.split(_MOST_RANKS, dim=1), strict=True):
        _drop_and_project[(triton.cdiv(rows, 2 * _ADAPTER_ROWS),)](
            x, own_a, own_low, draw, *_dropping(rate, scaling), rows, dim, len(own_a), len(a),
            **_adapter_tiles(own_a),
        )  # fmt: skip
    return low, draw


def drop_and_project_backward_(
    dlow: Tensor, x: Tensor, a: Tensor, rate: float, scaling: float, draw: Tensor, dx: Tensor
) -> Tensor:
    rows, dim = x.shape
    programs = min(triton.cdiv(rows, 2 * _ADAPTER_ROWS), _ADAPTER_PROGRAMS)
    da = []
    for own_a, own_dlow in zip(a.split(_MOST_RANKS), dlow.split(_MOST_RANKS, dim=1), strict=True):
        da.append(torch.empty(programs, *own_a.shape, dtype=torch.float32, device=x.device))
        _drop_and_project_backward[(programs, triton.cdiv(dim, 4 * _ADAPTER_COLUMNS))](
            own_dlow, x, own_a, dx, da[-1], draw, *_dropping(rate, scaling), rows, dim, len(own_a), len(a),
            **_adapter_tiles(own_a),
        )  # fmt: skip
    return torch.cat([_sum(parts, a.dtype) for parts in da]) if len(da) > 1 else _sum(da[0], a.dtype)


def adamw_(
    weights: Sequence[Tensor],
    masters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    steps: Sequence[int],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    scale: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One launch for all tensors, whose addresses go to the device first: a launch each would take the host longer."""
    device, kind = weights[0].device, weights[0].dtype
    together = zip(weights, gradients, masters, exp_avgs, exp_avg_sqs, strict=True)
    addresses = [[*(tensor.data_ptr() for tensor in tensors), tensors[0].numel()] for tensors in together]
    corrections = [[1 - beta**step for beta in betas] for step in steps]
    owner, begin = _blocks(tuple(row[-1] for row in addresses), device)
    _adamw[(len(owner),)](
        _to_device(torch.tensor(addresses), device), _to_device(torch.tensor(corrections), device), owner, begin, scale,
        lr, *betas, eps, weight_decay, KIND=tl.bfloat16 if kind == torch.bfloat16 else tl.float32,
        ALIGNED=16 if all(address % 16 == 0 for row in addresses for address in row[:-1]) else 4, BLOCK=_FLAT_BLOCK,
        num_warps=8,
    )  # fmt: skip


@cache
def _blocks(numels: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The tensor of each program, and the number of its block within that."""
    counts = torch.tensor([triton.cdiv(numel, _FLAT_BLOCK) for numel in numels])
    owner = torch.arange(len(numels)).repeat_interleave(counts)
    begin = torch.arange(len(owner)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return tuple(_to_device(numbers.to(torch.int32), device) for numbers in (owner, begin))


def _to_device(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


def _dropping(rate: float, scaling: float) -> tuple[int, float]:
    """What a draw of 16 bits must reach to be kept, and what the kept is multiplied by."""
    return round(rate * 2**16), scaling / (1 - rate)


def _adapter_tiles(a: Tensor) -> dict[str, int]:
    """Tiles of at most 112 KB in shared memory, as an A100 has it too (163 KB)."""
    padded = max(16, _power(len(a)))
    return {
        "ROWS": _ADAPTER_ROWS, "COLUMNS": _ADAPTER_COLUMNS, "RANK": padded, "num_warps": 4 if padded == 16 else 8,
        "num_stages": 2 if a.dtype.itemsize == 2 else 1,
    }  # fmt: skip


def _sum(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum `[...]` of parts `[P, ...]`, added up in float32, in one launch."""
    total = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    _sum_parts[(triton.cdiv(total.numel(), _SUM_BLOCK),)](
        parts, total, len(parts), total.numel(), PARTS=_SUM_PARTS, BLOCK=_SUM_BLOCK, num_warps=4
    )
    return total


def _power(number: int) -> int:
    return triton.next_power_of_2(number)


def _warps(dim: int) -> int:
    return min(8, max(1, _power(dim) // 256))
