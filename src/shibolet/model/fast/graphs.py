"""Layers whose passes are launched as CUDA graphs: a launch for many layers, where each would take hundreds.

A layer takes the host 3 ms in both passes, whatever the rows: with 32 utterances a GPU that is twice what the GPU takes
(benchmarks/RESULTS.md, "Two GPUs and 64 utterances"). A graph has fixed shapes and addresses, so the caller pads to few
shapes; one that comes often is recorded. What a graph computes has the bits of the same calls made one by one, so when
it was recorded, and whether, changes no result.

Shapes: R rows, padding included, D model dim.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shibolet.model.fast.device import CAPTURING

LOG = logging.getLogger(__name__)

# Layers in turn, their rows [R, D], tensors that all of them read, and the shape: the rows that come out, [R, D].
Run = Callable[[Sequence[nn.Module], Tensor, Sequence[Tensor], Hashable], Tensor]

_LAYERS = 8  # of a span; its gradients are exchanged while those of the span before it are computed
_SEEN_BEFORE = 1  # calls of a shape one by one, in which libraries load what a recording must find loaded
_MOST_SHAPES = 16
_FREE_FRAC = 0.25  # of the GPU's memory, without which nothing is recorded: activations get memory of their own


class _Lease:
    """A forward pass holds the memory of a recording until its backward pass is over, or nobody can ask for that."""

    over = False


@dataclass(slots=True)
class _Span:
    """A few layers recorded, with the memory that their launches read and write."""

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor
    dx: Tensor
    dy: Tensor
    weights: Sequence[nn.Parameter]  # that train
    gradients: Sequence[Tensor]
    is_first: bool


@dataclass(slots=True)
class _Recording:
    spans: list[_Span]
    inputs: list[Tensor]


class Chain:
    """Layers of one width, one after the other; something in each, or before them, trains."""

    def __init__(self, run: Run, layers: Sequence[nn.Module]) -> None:
        self._run = run
        self._parts = [layers[at : at + _LAYERS] for at in range(0, len(layers), _LAYERS)]
        self._signature: object = None
        self._begin(None, [])

    def _begin(self, signature: object, weights: Sequence[Sequence[nn.Parameter]]) -> None:
        """Forget what was recorded of other weights."""
        self._recordings: dict[Hashable, _Recording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._lease: Callable[[], _Lease | None] = lambda: None
        self._trained = [[weight for weight in of_part if weight.requires_grad] for of_part in weights]
        self._gradients: list[list[Tensor]] = []
        self._stream = self._pool = None
        self._is_on, self._signature = True, signature

    def release(self, *, for_good: bool) -> bool:
        """Give the memory of recordings back; whether there were any.

        `for_good`: record no more until other weights train, or until this is called without it.
        """
        had = bool(self._recordings)
        self._begin(self._signature if for_good else None, self._trained)
        self._is_on = not for_good
        return had

    def __call__(self, x: Tensor, inputs: Sequence[Tensor], shape: Hashable) -> Tensor:
        """Rows `[R, D]` after all layers. Calls with one `shape` have inputs of one shape; it is handed to `run`."""
        if not self._parts:
            return x
        weights = [[weight for layer in part for weight in layer.parameters()] for part in self._parts]
        signature = [(weight.data_ptr(), weight.requires_grad) for of_part in weights for weight in of_part]
        if signature != self._signature:
            self._begin(signature, weights)
        key = (x.shape, x.requires_grad, *(tensor.shape for tensor in inputs), shape)
        held, is_wanted = self._lease(), x.requires_grad or bool(self._trained[0])
        is_held = held is not None and not held.over
        if is_held or not (is_wanted and self._is_on and self._is_on_gpu(x)) or _is_recomputed():
            return self._one_by_one(x, inputs, shape)
        if key not in self._recordings:
            self._seen[key] += 1
            if self._seen[key] <= _SEEN_BEFORE or not self._record(key, x, inputs, shape):
                return self._one_by_one(x, inputs, shape)
        recording, lease = self._recordings[key], _Lease()
        self._lease = weakref.ref(lease)
        torch._foreach_copy_(recording.inputs, list(inputs))
        for span in recording.spans:
            x = _Launch.apply(span, lease, x, *span.weights)
        return x

    def _is_on_gpu(self, x: Tensor) -> bool:
        return x.is_cuda

    def _one_by_one(self, x: Tensor, inputs: Sequence[Tensor], shape: Hashable) -> Tensor:
        for part in self._parts:
            x = self._run(part, x, inputs, shape)
        return x

    def _record(self, key: Hashable, x: Tensor, inputs: Sequence[Tensor], shape: Hashable) -> bool:
        """Record both passes of a shape; where that is impossible False, and nothing is recorded from there on."""
        if len(self._recordings) == _MOST_SHAPES:
            return False
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        if free < 2 * _FREE_FRAC * total:
            torch.cuda.empty_cache()  # of activations made one by one: from here on those of the recording are used
            free, _ = torch.cuda.mem_get_info()
        try:
            if free < _FREE_FRAC * total:
                raise torch.OutOfMemoryError(f"{free / total:.0%} of the GPU's memory is free")
            if self._stream is None:
                self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
                self._gradients = [[torch.empty_like(w) for w in weights] for weights in self._trained]
            self._recordings[key] = self._recorded(x, [tensor.detach().clone() for tensor in inputs], shape)
        except RuntimeError as error:  # out of memory, or what a graph cannot hold
            self.release(for_good=True)
            torch.cuda.empty_cache()
            LOG.warning("layers are launched one by one from here on, and not as graphs: %s", error)
            return False
        return True

    def _recorded(self, x: Tensor, inputs: list[Tensor], shape: Hashable) -> _Recording:
        """All forward passes, then the backward passes: in the order in which they run, they share memory."""
        rows = [x.detach().clone() for _ in range(len(self._parts) + 1)]
        gradients = [torch.zeros_like(x) for _ in rows]
        forward, backward = ([torch.cuda.CUDAGraph() for _ in self._parts] for _ in range(2))
        given, found, wanted = [], [], []
        for number, part in enumerate(self._parts):
            given.append(rows[number].detach().requires_grad_(x.requires_grad or number > 0))
            with _leaves(part) as leaves, self._recording(forward[number]):
                found.append(self._run(part, given[number], inputs, shape))
                rows[number + 1].copy_(found[number].detach())
            wanted.append([leaf for leaf in (given[number], *leaves) if leaf.requires_grad])
        for number in reversed(range(len(self._parts))):
            held = [gradients[number], *self._gradients[number]][-len(wanted[number]) :]
            with self._recording(backward[number]), torch.autograd.set_multithreading_enabled(False):
                made = torch.autograd.grad(found.pop(), wanted[number], gradients[number + 1])
                torch._foreach_copy_(held, made)
                del made  # its memory is that of the pass before it
        each = zip(forward, backward, rows, rows[1:], gradients, gradients[1:], self._trained, self._gradients)
        return _Recording([_Span(*of_span, is_first=not number) for number, of_span in enumerate(each)], inputs)

    @contextmanager
    def _recording(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        """As `torch.cuda.graph`, which empties caches each time; what other threads do is none of its business."""
        torch.cuda.synchronize()
        with CAPTURING, torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                yield
            finally:
                graph.capture_end()


def _is_recomputed() -> bool:
    """Whether what a forward pass saves is made again in the backward pass: both have to save alike."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@contextmanager
def _leaves(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Within it layers have other leaves in their weights' memory, in the same order.

    A weight's own leaf may be of a graph that is not forgotten yet, whose stream would have to wait for the recording.
    """
    modules = [module for layer in layers for module in layer.modules()]
    before = [dict(module._parameters) for module in modules]
    for module in modules:
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = weight.detach().requires_grad_(weight.requires_grad)
    try:
        yield [leaf for layer in layers for leaf in layer.parameters()]
    finally:
        for module, parameters in zip(modules, before, strict=True):
            module._parameters.update(parameters)


class _Launch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, span: _Span, lease: _Lease, x: Tensor, *weights: Tensor) -> Tensor:
        if x.data_ptr() != span.x.data_ptr():
            span.x.copy_(x)
        span.forward.replay()
        ctx.span, ctx.lease = span, lease
        return span.y.detach()

    @staticmethod
    def backward(ctx, dy: Tensor):
        span = ctx.span
        if dy.data_ptr() != span.dy.data_ptr():
            span.dy.copy_(dy)
        span.backward.replay()
        if span.is_first:
            ctx.lease.over = True
        dx = span.dx if ctx.needs_input_grad[2] else None
        return None, None, dx, *span.gradients  # which are held here too, so autograd copies them
