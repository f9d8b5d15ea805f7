"""What families share of their parts: the part a weight belongs to, by patterns of names, and the output projection."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from shibolet.model.blueprint import Parameters

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


class NamedParts:
    """The parts of a family, by the first pattern that finds something in a weight's name."""

    part_of: Callable[[str], tuple[str, int | None]]  # a weight's part and its layer, where the part has layers

    def __init__(self, title: str, patterns: Sequence[tuple[str, str]]) -> None:
        """`patterns` are expressions and parts in the order of the forward pass, after the adapters.

        A group in an expression is the layer's number.
        """
        self._title = title
        self._patterns = [(re.compile(pattern), part) for pattern, part in patterns]
        self.names = tuple(part for _, part in patterns)
        self.part_of = cache(self._find)

    def _find(self, parameter: str) -> tuple[str, int | None]:
        for pattern, part in self._patterns:
            if match := pattern.search(parameter):
                return part, int(match[1]) if pattern.groups else None
        raise ValueError(f"parameter '{parameter}' belongs to no known part of {self._title}")

    def is_tied(self, model: Parameters) -> bool:
        """Whether the output projection is the embedding matrix: a weight with two names is named once."""
        return all(self.part_of(name)[0] != "head" for name, _ in model.named_parameters())


def untie(model: "PreTrainedModel", head: "nn.Linear", *configs: "PretrainedConfig") -> None:
    """Give `head` weights of its own, equal to the embeddings it shared; `configs` are those that say so."""
    from torch import nn

    head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    for config in configs:
        config.tie_word_embeddings = False
