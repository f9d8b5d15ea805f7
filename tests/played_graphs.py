"""Recordings of layers, played by functions on a CPU.

They read and write the same fixed tensors as CUDA graphs do, so a result that refers to them, or a pass that comes too
early, shows.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

from shibolet.model.fast.graphs import Chain, _Frozen, _Recording, _Span


class PlayedChain(Chain):
    """Records on a CPU."""

    num_played = 0

    def _is_on_gpu(self, x: Tensor) -> bool:
        return True

    def _get_ready(self) -> None:
        if not self._gradients:
            self._gradients = [[torch.full_like(w, torch.nan) for w in weights] for weights in self._trained]

    def _recorded(self, x, inputs, shape) -> _Recording:
        rows = [torch.full_like(x, torch.nan).detach() for _ in range(len(self._parts) + 1)]
        gradients = [torch.full_like(row, torch.nan) for row in rows]
        spans = []
        for n, part in enumerate(self._parts):
            passes = Played(self, part, rows, gradients, inputs, shape, n, x.requires_grad or n > 0)
            spans.append(_Span(
                SimpleNamespace(replay=passes.forward), SimpleNamespace(replay=passes.backward), rows[n], rows[n + 1],
                gradients[n], gradients[n + 1], self._trained[n], self._gradients[n], is_first=n == 0,
            ))  # fmt: skip
        return _Recording(self._played_frozen(x.detach().clone(), rows[0], inputs, shape), spans, inputs)

    def _played_frozen(self, x, y, inputs, shape) -> _Frozen | None:
        def replay() -> None:
            self.num_played += 1
            y.copy_(self._run(self._frozen, x, inputs, shape))

        return _Frozen(SimpleNamespace(replay=replay), x, y) if self._frozen else None


class Played:
    def __init__(self, chain, part, rows, gradients, inputs, shape, number, wants_dx) -> None:
        self.chain, self.part, self.rows, self.gradients, self.number = chain, part, rows, gradients, number
        self.inputs, self.shape, self.wants_dx = inputs, shape, wants_dx

    def forward(self) -> None:
        self.chain.num_played += 1
        with torch.enable_grad():
            self.x = self.rows[self.number].clone().requires_grad_(self.wants_dx)
            self.y = self.chain._run(self.part, self.x, self.inputs, self.shape)
        self.rows[self.number + 1].copy_(self.y.detach())

    def backward(self) -> None:
        wanted = [one for one in (self.x, *self.chain._trained[self.number]) if one.requires_grad]
        held = [self.gradients[self.number], *self.chain._gradients[self.number]][-len(wanted) :]
        made = torch.autograd.grad(self.y, wanted, self.gradients[self.number + 1])
        for own, new in zip(held, made, strict=True):
            own.copy_(new)
