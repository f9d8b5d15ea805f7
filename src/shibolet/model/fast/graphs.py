"""Layers whose passes are launched as CUDA graphs: a launch for many layers, where each would take hundreds.

A layer takes the host 3 ms in both passes, whatever the rows: with 32 utterances a GPU that is twice what the GPU takes
(benchmarks/RESULTS.md, "Two GPUs and 64 utterances"). A graph has fixed shapes and addresses, so the caller pads to few
shapes; one that comes often is recorded. What a graph computes has the bits of the same calls made one by one, so when
it was recorded, and whether, changes no result.

Layers that no gradient passes through are one graph of forward passes alone: those before the first that trains, where
what comes in needs no gradient either.

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
from shibolet.model.outline import GRAPHS_FREE_FRAC

LOG = logging.getLogger(__name__)

# Layers in turn, their rows [R, D], tensors that all of them read, and the shape: the rows that come out, [R, D].
Run = Callable[[Sequence[nn.Module], Tensor, Sequence[Tensor], Hashable], Tensor]

_LAYERS = 8  # of a span; its gradients are exchanged while those of the span before it are computed
_SEEN_BEFORE = 1  # calls of a shape one by one, in which libraries load what a recording must find loaded
_MOST_SHAPES = 16


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
class _Frozen:
    """Layers without gradients recorded."""

    forward: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor


@dataclass(slots=True)
class _Recording:
    frozen: _Frozen | None  # its `y` is what the first span reads
    spans: list[_Span]
    inputs: list[Tensor]


class Chain:
    """Layers of one width, one after the other."""

    def __init__(self, run: Run, layers: Sequence[nn.Module]) -> None:
        self._run, self._layers = run, list(layers)
        self._modules: list[list[nn.Module]] = []  # of each layer
        self._children: list[nn.Module] | None = None  # of these modules
        self._frozen: list[nn.Module] = []
        self._parts: list[list[nn.Module]] = []
        self._trained: list[list[nn.Parameter]] = []  # of each part
        self._begin(None)

    def _begin(self, signature: object) -> None:
        """Forget what was recorded of other weights."""
        self._recordings: dict[Hashable, _Recording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._lease: Callable[[], _Lease | None] = lambda: None
        self._gradients: list[list[Tensor]] = []
        self._stream = self._pool = None
        self._is_on, self._signature = True, signature

    def _divide(self, weights: Sequence[Sequence[nn.Parameter]], has_gradient: bool) -> None:
        """Layers that no gradient passes through, and parts of the others; `has_gradient`: what comes in wants one."""
        trained = [[weight for weight in of_layer if weight.requires_grad] for of_layer in weights]
        first = 0 if has_gradient else next((n for n, of_layer in enumerate(trained) if of_layer), len(trained))
        self._frozen = self._layers[:first]
        spans = [slice(at, at + _LAYERS) for at in range(first, len(trained), _LAYERS)]
        self._parts = [self._layers[span] for span in spans]
        self._trained = [[weight for of_layer in trained[span] for weight in of_layer] for span in spans]

    def release(self, *, for_good: bool) -> bool:
        """Give the memory of recordings back; whether there were any.

        `for_good`: record no more until other weights train, or until this is called without it.
        """
        had = bool(self._recordings)
        self._begin(self._signature if for_good else None)
        self._is_on = not for_good
        return had

    def __call__(self, x: Tensor, inputs: Sequence[Tensor], shape: Hashable) -> Tensor:
        """Rows `[R, D]` after all layers. Calls with one `shape` have inputs of one shape; it is handed to `run`."""
        if not self._layers:
            return x
        weights = self._weights()
        if not torch.is_grad_enabled() and any(weight.requires_grad for of_layer in weights for weight in of_layer):
            return self._run(self._layers, x, inputs, shape)
        signature = [(weight.data_ptr(), weight.requires_grad) for of_layer in weights for weight in of_layer]
        if (signature, x.requires_grad) != self._signature:
            self._begin((signature, x.requires_grad))
            self._divide(weights, x.requires_grad)
        held = self._lease()
        is_held = held is not None and not held.over
        if is_held or not (self._is_on and self._is_on_gpu(x)) or _is_recomputed():
            return self._run(self._layers, x, inputs, shape)
        key = (x.shape, *(tensor.shape for tensor in inputs), shape)
        self._seen[key] += 1
        if key not in self._recordings:
            if self._seen[key] <= _SEEN_BEFORE or not self._record(key, x, inputs, shape):
                return self._run(self._layers, x, inputs, shape)
        return self._launch(self._recordings[key], x, inputs)

    def _weights(self) -> list[list[nn.Parameter]]:
        """Of each layer; modules, of which adapters alone are a hundred, are walked through once and then compared."""
        if self._children is None or _children(self._modules) != self._children:
            self._modules = [list(layer.modules()) for layer in self._layers]
            self._children = _children(self._modules)
        return [
            [weight for module in modules for weight in module._parameters.values() if weight is not None]
            for modules in self._modules
        ]

    def _is_on_gpu(self, x: Tensor) -> bool:
        return x.is_cuda

    def _launch(self, recording: _Recording, x: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        torch._foreach_copy_(recording.inputs, list(inputs))
        if recording.frozen:
            recording.frozen.x.copy_(x)
            recording.frozen.forward.replay()
            x = recording.frozen.y
        if not recording.spans:
            return x.clone()  # no lease says how long it is needed
        lease = _Lease()
        self._lease = weakref.ref(lease)
        for span in recording.spans:
            x = _Launch.apply(span, lease, x, *span.weights)
        return x

    def _record(self, key: Hashable, x: Tensor, inputs: Sequence[Tensor], shape: Hashable) -> bool:
        """Record the passes of a shape; where that is impossible False, and nothing is recorded from there on.

        False too where there are `_MOST_SHAPES` that come more often, or nearly as often, as two that take turns would
        be recorded in turns; and where one more has no room: the others stay.
        """
        rarest = min(self._recordings, key=self._seen.get) if len(self._recordings) >= _MOST_SHAPES else None
        if rarest is not None and self._seen[key] < 2 * self._seen[rarest]:
            return False
        try:
            self._get_ready()
            self._recordings.pop(rarest, None)
            self._recordings[key] = self._recorded(x, [tensor.detach().clone() for tensor in inputs], shape)
        except RuntimeError as error:  # out of memory, or what a graph cannot hold
            if rarest in self._recordings:
                self._seen[key] = 0  # it has to come as often once more
                return False
            self.release(for_good=True)
            torch.cuda.empty_cache()
            LOG.warning("layers are launched one by one from here on, and not as graphs: %s", error)
            return False
        return True

    def _get_ready(self) -> None:
        """Wait until no graph runs; OutOfMemoryError where there is no room for another."""
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        if free < 2 * GRAPHS_FREE_FRAC * total:
            torch.cuda.empty_cache()  # of activations made one by one: from here on those of the recording are used
            free, _ = torch.cuda.mem_get_info()
        if free < GRAPHS_FREE_FRAC * total:
            raise torch.OutOfMemoryError(f"{free / total:.0%} of the GPU's memory is free")
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            self._gradients = [[torch.empty_like(w) for w in weights] for weights in self._trained]

    def _recorded(self, x: Tensor, inputs: list[Tensor], shape: Hashable) -> _Recording:
        """All forward passes, then the backward passes: in the order in which they run, they share memory."""
        rows = [x.detach().clone() for _ in range(len(self._parts) + 1)]
        frozen = self._recorded_frozen(x.detach().clone(), rows[0], inputs, shape) if self._frozen else None
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
        spans = [_Span(*of_span, is_first=not number) for number, of_span in enumerate(each)]
        return _Recording(frozen, spans, inputs)

    def _recorded_frozen(self, x: Tensor, y: Tensor, inputs: list[Tensor], shape: Hashable) -> _Frozen:
        graph = torch.cuda.CUDAGraph()
        with self._recording(graph):
            y.copy_(self._run(self._frozen, x, inputs, shape))
        return _Frozen(graph, x, y)

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


def _children(modules: Sequence[Sequence[nn.Module]]) -> list[nn.Module | None]:
    return [child for of_layer in modules for module in of_layer for child in module._modules.values()]


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
        for weight, gradient in zip(span.weights, span.gradients, strict=True):
            if weight.grad is not None and weight.grad.data_ptr() == gradient.data_ptr():
                weight.grad = weight.grad.clone()  # of an earlier pack of the step: this one is added to it
        span.backward.replay()
        if span.is_first:
            ctx.lease.over = True
        dx = span.dx if ctx.needs_input_grad[2] else None
        # Autograd copies a gradient that others refer to, with a launch for each; of these it takes the memory.
        return None, None, dx, *(gradient.detach() for gradient in span.gradients)
