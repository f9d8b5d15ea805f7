"""Layers whose gradients have the same bits for any number of torch's threads on a CPU.

There torch divides sums in the gradients of some layers among its threads: here one takes them. Everything else is
computed by all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.layer_norm` over the last dimension."""
    if x.is_cuda:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return _LayerNorm.apply(x, weight, bias, eps)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`F.conv2d`."""
    if x.is_cuda:
        return F.conv2d(x, weight, bias, stride, padding)
    return _Conv2d.apply(x, weight, bias, stride, padding)


def softmax(x: Tensor) -> Tensor:
    """`x.softmax(-1)`."""
    return x.softmax(-1) if x.is_cuda else _Softmax.apply(x)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def layer_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, wants: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, those that are wanted."""
    with _one_thread():
        return torch.ops.aten.native_layer_norm_backward(dy, x, weight.shape, mean, rstd, weight, bias, wants)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, dy):
        return *layer_norm_backward(dy, *ctx.saved_tensors, ctx.needs_input_grad[:3]), None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.how = (stride, padding, (1, 1), False, (0, 0), 1)  # dilation, whether transposed, its padding, groups
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad[:3]
        with _one_thread():  # the gradient of x too: of three inputs it had other bits with two threads
            found = torch.ops.aten.convolution_backward(dy, x, weight, [len(weight)], *ctx.how, wants)
        return *found, None, None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        with _one_thread():
            return torch.ops.aten._softmax_backward_data(dy, y, -1, y.dtype)
