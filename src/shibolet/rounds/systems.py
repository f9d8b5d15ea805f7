"""Systems that are scored in a round, each compared with each or each with the one before; `scorers.py` scores them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shibolet.compare import compare_systems
from shibolet.compare.waterfall import waterfall
from shibolet.errors import DataError
from shibolet.records.documents.comparison import Named, SystemsComparison, Waterfall
from shibolet.records.documents.scores import Overlap, Scores
from shibolet.records.runfolder import Stage
from shibolet.rounds.scoring import compared_with, overlaps_of
from shibolet.rounds.shared import Round
from shibolet.scoring.rows import ScoredRow


def do_compare_systems(current: Round, labels: Sequence[str]) -> SystemsComparison:
    """Every pair of systems that were scored here, on the sets that all of them have."""
    return _compared(current, labels, "systems", SystemsComparison, compare_systems)


def do_waterfall(current: Round, labels: Sequence[str]) -> Waterfall:
    """What each system changes after the one before it, in this order, on the sets that all of them have."""
    return _compared(current, labels, "waterfall", Waterfall, waterfall)


Document = TypeVar("Document", SystemsComparison, Waterfall)


def _compared(
    current: Round, labels: Sequence[str], name: str, kind: type[Document], compare: Callable[..., Document]
) -> Document:
    """The document of a stage of this name, which `compare` makes of the systems' rows."""
    scored, recipe, path = _Scored.on_common_sets(current, labels), current.recipe, current.folder.path / f"{name}.json"
    stage = scored.begin(name, kind.FORMAT)
    if not stage.done:
        compare(scored.rows(), recipe.compare, recipe.evaluate.buckets_s, scored.overlaps()).write(path)
        current.finish(stage)
    return kind.read(path)


@dataclass(frozen=True)
class _Scored:
    """Systems with scores on the same sets."""

    current: Round
    labels: Sequence[str]
    sets: Sequence[str]

    @classmethod
    def on_common_sets(cls, current: Round, labels: Sequence[str]) -> "_Scored":
        """DataError where one has no scores, or all of them no set in common."""
        folder, sets = current.folder, [source.name for source in current.sets]
        scored = {label: [s for s in sets if folder.finished(f"evaluate/{label}/{s}")] for label in labels}
        if lacking := [label for label, found in scored.items() if not found]:
            raise DataError(
                f"'{lacking[0]}' has no scores in {folder.path}; 'shibolet evaluate' makes them, from a model or from "
                f"hypotheses: --hypotheses {lacking[0]}=FILE"
            )
        common = [name for name in sets if all(name in found for found in scored.values())]
        if left_out := sorted({name for found in scored.values() for name in found} - set(common)):
            current.warn(
                f"compare: not all of {', '.join(labels)} have scores on {', '.join(left_out)}, so they are left out"
            )
        if not common:
            raise DataError(f"{', '.join(labels)} have no set in common")
        return cls(current, labels, common)

    def begin(self, name: str, format: int) -> Stage:
        stages = [[f"evaluate/{label}/{set_name}" for set_name in self.sets] for label in self.labels]
        inputs: dict[str, Any] = {
            "systems": list(self.labels),
            "scores": [[self.current.folder.verified(one) for one in own] for own in stages],
        }
        reads = [one for own in stages for one in own]
        return self.current.begin(name, inputs | compared_with(self.current, format), reads=reads)

    def rows(self) -> dict[Named, list[ScoredRow]]:
        from shibolet.evaluate.stage import read_rows  # scipy: half a second before the first stage

        folder = self.current.folder
        return {
            self._named(label): [row for name in self.sets for row in read_rows(folder.evaluation(label, name))]
            for label in self.labels
        }

    def overlaps(self) -> dict[str, dict[str, Overlap]]:
        return {label: overlaps_of(self.current, label, self.sets) for label in self.labels}

    def _named(self, label: str) -> Named:
        """What was scored under a label, as it is called there."""
        return Named(label=label, title=Scores.read(self.current.folder.scores(label, self.sets[0])).title)
