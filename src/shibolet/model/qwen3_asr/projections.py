"""Projections of the same rows: one product for all of them, what adapters add to each, and their gradients.

Weights that multiply the same rows lie one below the other in memory; parameters stay what and where they are.

Shapes: R rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shibolet.errors import ModelError
from shibolet.model.fast.kernels import drop_and_project, drop_and_project_backward_


def lay_together(weights: Sequence[nn.Parameter]) -> None:
    """Give weights one storage, one below the other, where they are several and have none."""
    if len(weights) > 1 and _lying_together(weights) is None:
        together = torch.cat([weight.detach() for weight in weights])
        for weight, own in zip(weights, together.split([len(weight) for weight in weights]), strict=True):
            weight.data = own


def _lying_together(weights: Sequence[Tensor]) -> Tensor | None:
    """The weights as one, if they lie so in memory."""
    first, rows = weights[0], 0
    end, storage = first.data_ptr(), first.untyped_storage()
    for weight in weights:
        if weight.data_ptr() != end:
            return None
        end, rows = end + weight.nbytes, rows + weight.shape[0]
    if storage.data_ptr() + storage.nbytes() < end:  # neighbours by chance
        return None
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def products(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """`x W^T` of each weight side by side, `[R, out of all]`; in one product unless something has moved a weight."""
    if len(weights) == 1:
        return x @ weights[0].t()
    together = _lying_together(weights)
    if together is not None:
        return x @ together.t()
    sizes = [weight.shape[0] for weight in weights]
    y = x.new_empty(x.shape[0], sum(sizes))
    for weight, own in zip(weights, y.split_with_sizes(sizes, dim=1), strict=True):
        torch.mm(x, weight.t(), out=own)
    return y


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """Weights one below the other; a copy only where something has moved one."""
    together = _lying_together(weights) if len(weights) > 1 else weights[0]
    return torch.cat(list(weights)) if together is None else together


def weight_of(module: nn.Module) -> Tensor:
    return module._parameters["weight"]  # a module's attribute takes 20 times as long, and a layer asks for 13


class Adapting(NamedTuple):
    """How an adapter is added: `scaling * B A dropout(x)`."""

    dropout: float
    scaling: float
    draw: Tensor | None = None  # on CUDA, int64 of no dimensions: which mask the dropout has; None: one is drawn


def _is_adapted(module: nn.Module) -> bool:
    return "lora_A" in module._modules  # asked eight times a layer; `hasattr` makes and drops an exception


def map_of(module: nn.Module) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if not _is_adapted(module):
        return weight_of(module), None, None
    return module.get_base_layer().weight, module.lora_A["default"].weight, module.lora_B["default"].weight


def adapting(modules: Sequence[nn.Module], draws: Tensor | None, number: int) -> Adapting | None:
    """How the adapters of projections of one input are added; None: there are none. `draws[number]` is their draw."""
    found = set()
    for module in modules:
        if _is_adapted(module):
            dropout = module.lora_dropout["default"]
            rate = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
            found.add(Adapting(rate, module.scaling["default"]))
    if len(found) > 1:
        raise ModelError(f"adapters of one layer's q, k and v differ in dropout or scaling: {sorted(found)}")
    how = found.pop() if found else None
    return how if how is None or draws is None or not how.dropout else how._replace(draw=draws[number])


def threes(weights: Sequence[Tensor | None]) -> list[Sequence[Tensor | None]]:
    return [weights[first : first + 3] for first in range(0, len(weights), 3)]


Map = Sequence[Tensor | None]  # W [out, in], and of its adapter A [rank, in] and B [out, rank], if it has one
Kept = tuple[Tensor | None, Tensor | None]  # of adapters: the draw of their dropout, and scaling * A dropout(x)


def project(x: Tensor, maps: Sequence[Map], how: Adapting | None) -> tuple[Tensor, Kept]:
    """`x W^T` of each map side by side, with what its adapter adds, as peft's layers, but for one dropout of x."""
    y = products(x, [weight for weight, _, _ in maps])
    if how is None:
        return y, (None, None)
    together = stacked([a for _, a, _ in maps if a is not None])
    low, draw = drop_and_project(x, together, *how) if how.dropout else ((x @ together.t()).mul_(how.scaling), None)
    out, rank = 0, 0
    for weight, a, b in maps:
        if a is not None:
            y.narrow(1, out, weight.shape[0]).addmm_(low.narrow(1, rank, a.shape[0]), b.t())
            rank += a.shape[0]
        out += weight.shape[0]
    return y, (draw, low)


def project_backward(
    dys: Sequence[Tensor],
    x: Tensor | None,
    maps: Sequence[Map],
    how: Adapting | None,
    kept: Kept,
    wants_weight: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of `x`, and of W (where it is wanted), A and B of each map in turn."""
    dx = dys[0] @ maps[0][0]
    for dy, (weight, _, _) in zip(dys[1:], maps[1:], strict=True):
        dx.addmm_(dy, weight)
    found = [[dy.t() @ x if wanted else None, None, None] for dy, wanted in zip(dys, wants_weight, strict=True)]
    if how is not None:
        (draw, low), adapted = kept, [i for i, (_, a, _) in enumerate(maps) if a is not None]
        ranks, together = [len(maps[i][1]) for i in adapted], stacked([maps[i][1] for i in adapted])
        dlow = torch.cat([dys[i] @ maps[i][2] for i in adapted], dim=1)
        if draw is None:
            dlow.mul_(how.scaling)
            dx.addmm_(dlow, together)
            da = dlow.t() @ x
        else:
            da = drop_and_project_backward_(dlow, x, together, how.dropout, how.scaling, draw, dx)
        for i, own, own_da in zip(adapted, low.split(ranks, dim=1), da.split(ranks), strict=True):
            found[i][1:] = own_da, dys[i].t() @ own
    return dx, [gradient for of_map in found for gradient in of_map]
