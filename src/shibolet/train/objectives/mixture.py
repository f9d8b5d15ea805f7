"""Several objectives at once, each with a weight that may change as a phase goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from shibolet.model.family import Family
from shibolet.model.protocols import Pack
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, Needs, Objective, PackLoss, TrainStep


@dataclass(frozen=True, slots=True)
class Term:
    """An objective of a mixture; its own loss is recorded under its name."""

    name: str
    objective: Objective
    weight: Callable[[float], float]  # of the progress within the phase, 0 to 1


@dataclass(frozen=True, slots=True)
class TermsNeeds:
    """All that the terms need of an utterance; ValueError where two of them use one name."""

    by_term: Mapping[str, Needs]

    def __call__(self, example: TrainExample) -> Extras:
        extras, owners = {}, {}
        for term, needs in self.by_term.items():
            for name, value in needs(example).items():
                if name in extras:
                    raise ValueError(
                        f"the terms '{owners[name]}' and '{term}' of a mixture both need '{name}' of an utterance; "
                        "give it another name in one of them"
                    )
                extras[name], owners[name] = value, term
        return extras


class Mixture:
    """The weighted sum of the terms' mean losses, whatever each of them counts; all see one pass of the encoder."""

    def __init__(self, family: Family, terms: Sequence[Term]) -> None:
        self._family, self._terms = family, terms
        own = ((term.name, *(f"{term.name}/{name}" for name in term.objective.numbers)) for term in terms)
        self.numbers = tuple(name for names in own for name in names)
        self.needs = TermsNeeds({term.name: term.objective.needs for term in terms if term.objective.needs})

    def count(self, examples: Sequence[TrainExample]) -> int:
        """The first term's."""
        return self._terms[0].objective.count(examples)

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for term in self._terms:
                stack.enter_context(term.objective.context(model))
            yield

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        if pack.encoded is None:
            pack = replace(pack, encoded=self._family.encode(model, pack))
        count, total, numbers = self.count(step.examples), 0.0, {}
        for term in self._terms:
            found = term.objective.loss(model, pack, step)
            mean: Tensor = found.total / term.objective.count(step.examples)
            total = total + count * term.weight(step.progress_frac) * mean
            own = {f"{term.name}/{name}": value for name, value in found.numbers.items()}
            numbers |= {term.name: mean.detach(), **own}
        return PackLoss(total, numbers)
