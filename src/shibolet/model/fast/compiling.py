"""Triton's kernels compiled into its cache before a model needs them, from the model's widths alone.

The functions of `triton_kernels` are called as models call them, with tensors that have no memory, in a process that
compiles what it would launch. So neither weights nor memory of a GPU are needed. tests/gpu/test_compiling.py holds
these calls against what hearing and training launch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from shibolet.records.ahead import Ahead

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]
_ROWS, _EPS = 64, 1e-6  # kernels are not compiled for a number of rows, but for multiples of 16 of what a row has


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What the kernels of a decoder are compiled for."""

    dim: int
    inner_dim: int
    heads: int
    key_heads: int
    head_dim: int
    vocab: int


@cache
def begin_to_hash_compiler() -> None:
    """Have Triton's hash of its own files taken, once in a process, for a second before the first kernel wants it.

    Nothing where Triton is missing, or has it at another place.
    """
    with suppress(ImportError):
        from triton.runtime.cache import triton_key

        Ahead(triton_key, may_be_cut_off=True)  # which keeps it


def compile_alone() -> None:
    """From now on this process launches no kernel: it compiles each for its first GPU, without a context there."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    gpu, run = driver.active, JITFunction.run
    gpu.get_current_device = lambda: 0
    gpu.get_current_stream = lambda device: 0  # torch would make a context for one, which takes half a gigabyte
    target = gpu.get_current_target()
    gpu.get_current_target = lambda: target  # a copy of this process cannot ask

    def compile_it(kernel: JITFunction, *args, grid, warmup, **options) -> None:
        compiled = run(kernel, *args, grid=grid, warmup=True, **options)
        gpu.launcher_cls(compiled.src, compiled.metadata)  # the C that launches it, which is compiled and kept too

    JITFunction.run = compile_it


def forward_calls(widths: Widths, dtype: str) -> Iterator[Call]:
    """The launches of a decoder that hears, aligns, writes or scores, in a precision such as "bfloat16"."""
    from shibolet.model.fast import triton_kernels as kernels

    new = partial(_new, dtype=dtype)
    x, weight = new(_ROWS, widths.dim), new(widths.dim)
    for add in (None, x):
        yield partial(kernels.rms_norm, x, weight, _EPS, add)
    angle, of_head, nums = new(_ROWS, widths.head_dim), new(widths.head_dim), (widths.heads, widths.key_heads)
    joined = new(_ROWS, widths.heads + 2 * widths.key_heads, widths.head_dim)
    for in_place in (True, False):
        yield partial(kernels.norm_rope, joined, of_head, of_head, nums, angle, angle, _EPS, in_place)
    yield partial(kernels.swiglu, new(_ROWS, 2 * widths.inner_dim))
    kept, numbers = new(_ROWS, _ROWS, widths.key_heads, widths.head_dim), _new(_ROWS, dtype="int64")
    heads = joined.split((*nums, widths.key_heads), 1)
    yield partial(kernels.attend_rows, *heads, kept, kept, numbers, _new(_ROWS, dtype="bool"), 1.0)
    yield partial(kernels.cross_entropy_, new(_ROWS, widths.vocab), numbers)


def backward_calls(widths: Widths, dtype: str, rank: int, targets: Sequence[str], dropout: float) -> Iterator[Call]:
    """Those of its backward pass, through frozen layers and others; adapters of `rank` are on projections `targets`."""
    from shibolet.model.fast import triton_kernels as kernels

    new = partial(_new, dtype=dtype)
    x, rstd, inner = new(_ROWS, widths.dim), _new(_ROWS, dtype="float32"), new(_ROWS, widths.inner_dim)
    weight, angle, of_head = new(widths.dim), new(_ROWS, widths.head_dim), new(widths.head_dim)
    outputs = targets.count("o_proj")  # which adapts what was attended to; the others share an input and a launch
    for ranks, dim in ((rank * outputs, widths.heads * widths.head_dim), (rank * (len(targets) - outputs), widths.dim)):
        if ranks and dropout:
            y, a, low, draw = new(_ROWS, dim), new(ranks, dim), new(_ROWS, ranks), _new(dtype="int64")
            yield partial(kernels.drop_and_project_backward_, low, y, a, dropout, 1.0, draw, y)
            yield partial(kernels.drop_and_project, y, a, dropout, 1.0, draw)
    nums = widths.heads, widths.key_heads
    joined = new(_ROWS, sum(nums), widths.head_dim).split(nums, 1)
    for wanted in (False, True):
        for heads in joined:
            dy = new(_ROWS, heads.shape[1], widths.head_dim)
            yield partial(kernels.norm_rope_backward, dy, heads, of_head, angle, angle, _EPS, wanted)
        for add in (None, x):
            yield partial(kernels.rms_norm_backward, x, x, weight, rstd, add, wanted)
        yield partial(kernels.swiglu_backward_, inner, new(_ROWS, 2 * widths.inner_dim), wanted)
    for gradient in (x, new(widths.vocab, widths.dim)):
        yield partial(kernels.scale_, gradient, _new(dtype="float32"))


def update_calls(dtype: str) -> Iterator[Call]:
    """That of the optimizer."""
    from shibolet.model.fast import triton_kernels as kernels

    weight, master = _new(_ROWS, _ROWS, dtype=dtype), _new(_ROWS, _ROWS, dtype="float32")
    scale = _new(dtype="float32")
    yield partial(
        kernels.adamw_, [weight], [master], [weight], [1], [master], [master], scale, 1e-3, (0.9, 0.999), 1e-8, 0.01
    )


def _new(*shape: int, dtype: str) -> "torch.Tensor":
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
