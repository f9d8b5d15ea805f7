"""Whether weights look like trained ones: numbers, no matrix of zeros, layers of a size like their neighbours'."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from shibolet.model.family import family_of
from shibolet.rounds.verify.subject import Outcome, outcome

NEIGHBOURS = 2  # layers to each side
# Matrices of healthy models differ from their neighbours' by up to 1.8 (docs/decisions.md).
ODD_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class OddLayer:
    """A matrix whose size is not that of its neighbours."""

    name: str  # of the parameter
    factor: float  # its root mean square over the median of its neighbours'

    def __str__(self) -> str:
        times = f"{self.factor:.1f} times" if self.factor >= 1 else f"1/{1 / self.factor:.1f} of"
        return f"'{self.name}' is {times} as large as in the layers beside it"


def check_weights(model: nn.Module) -> tuple[Outcome, list[OddLayer]]:
    """The check, and what it found odd."""
    broken, zeros, sizes = [], [], {}
    for name, weight in model.named_parameters():
        size = weight.detach().float().square().mean().sqrt().item()
        if not math.isfinite(size):
            broken.append(name)
        elif weight.ndim > 1:
            sizes[name] = size
            zeros += [name] if size == 0 else []
    odd = odd_layers(model, {name: size for name, size in sizes.items() if size})
    faults = [
        f"{len(names)} weights {what} (first: '{names[0]}'): the file is damaged, or was not written whole; download "
        "or save the model again"
        for names, what in ((broken, "hold NaN or infinity"), (zeros, "are all zero, which no training leaves"))
        if names
    ]
    notes = [
        f"{layer}; trained layers differ less: see the check 'behaviour' for whether it does harm" for layer in odd
    ]
    numbers = {"matrices": len(sizes), "odd": len(odd), "all_zero": len(zeros), "not_finite": len(broken)}
    return outcome(faults, notes, f"{len(sizes)} matrices are of a size like their neighbours'", numbers), odd


def odd_layers(model: nn.Module, sizes: dict[str, float]) -> list[OddLayer]:
    """Matrices that differ by more than `ODD_FACTOR` from the layers beside them, the oddest first.

    One that is found is no neighbour any more: it would make the healthy ones beside it odd.
    """
    found = []
    for by_layer in _kinds(model, sizes):
        left = dict(by_layer)
        while len(left) > NEIGHBOURS:
            factors = {layer: sizes[name] / _beside(layer, left, sizes) for layer, name in left.items()}
            worst = max(factors, key=lambda layer: abs(math.log(factors[layer])))
            if abs(math.log(factors[worst])) < math.log(ODD_FACTOR):
                break
            found.append(OddLayer(left.pop(worst), factors[worst]))
    return sorted(found, key=lambda one: -abs(math.log(one.factor)))


def _kinds(model: nn.Module, names: dict[str, float]) -> Iterator[dict[int, str]]:
    """Layer -> parameter, of each kind of matrix that layers have."""
    kinds: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        _, layer = family_of(model.config).part_of(name)
        if layer is not None:
            kinds[name.replace(f".{layer}.", ".N.", 1)][layer] = name
    yield from kinds.values()


def _beside(layer: int, names: dict[int, str], sizes: dict[str, float]) -> float:
    near = sorted((other for other in names if other != layer), key=lambda other: (abs(other - layer), other))
    return median(sizes[names[other]] for other in near[: 2 * NEIGHBOURS])


@contextmanager
def rescaled(model: nn.Module, layer: OddLayer) -> Iterator[None]:
    """Within it the matrix is as large as its neighbours."""
    weight = model.get_parameter(layer.name)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.div_(layer.factor)
        yield
        weight.copy_(before)
