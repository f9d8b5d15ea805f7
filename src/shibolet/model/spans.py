"""Spans of layers as recipes write them, `decoder.layers[16:28]`; no torch, so that a recipe can be read without it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SPAN = re.compile(r"(encoder|decoder)\.layers(?:\[(\d*):(\d*)\])?")


@dataclass(frozen=True, slots=True)
class LayerSpan:
    """Layers `first` to `last` - 1 of a tower; `last` None: to its end."""

    tower: str  # "encoder" or "decoder"
    first: int
    last: int | None

    @classmethod
    def parse(cls, part: str) -> "LayerSpan | None":
        """The span that a part's name gives; None for parts that are none."""
        if (found := _SPAN.fullmatch(part)) is None:
            return None
        return cls(found[1], int(found[2] or 0), int(found[3]) if found[3] else None)

    def __contains__(self, layer: int) -> bool:
        return self.first <= layer and (self.last is None or layer < self.last)

    def shared_with(self, other: "LayerSpan") -> int | None:
        """The first layer that both hold; None when they share none."""
        first = max(self.first, other.first)
        return first if self.tower == other.tower and first in self and first in other else None

    def top(self, count: int, num_layers: int) -> "LayerSpan":
        """At most the last `count` of these layers, in a tower of `num_layers`."""
        last = num_layers if self.last is None else self.last
        return LayerSpan(self.tower, max(self.first, last - count), last)

    def __str__(self) -> str:
        return f"{self.tower}.layers[{self.first}:{'' if self.last is None else self.last}]"


def spread(num: int, of: int) -> list[int]:
    """So many of `of` layers, the first and the last among them, the others evenly between; one alone is the first."""
    return [round(place * (of - 1) / max(1, num - 1)) for place in range(num)]


def keep(tower: Any, layers: Sequence[int], *attentions: str) -> None:
    """Leave these layers of a module with a list of them.

    The attentions of a layer that are named know its place, by which keys and values are kept; they are told the new.
    """
    tower.layers = type(tower.layers)([tower.layers[layer] for layer in layers])
    for place, layer in enumerate(tower.layers):
        for name in attentions:
            getattr(layer, name).layer_idx = place
