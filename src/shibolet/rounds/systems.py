"""Systems that are scored in a round, each compared with each; `scorers.py` scores them."""

from collections.abc import Sequence

from shibolet.compare import compare_systems
from shibolet.errors import DataError
from shibolet.evaluate.stage import read_rows
from shibolet.records.documents.comparison import Named, SystemsComparison
from shibolet.records.documents.scores import Scores
from shibolet.rounds.scoring import compared_with, overlaps_of
from shibolet.rounds.shared import Round


def do_compare_systems(current: Round, labels: Sequence[str]) -> SystemsComparison:
    """Every pair of systems that were scored here, on the sets that all of them have."""
    recipe, folder = current.recipe, current.folder
    sets = [source.name for source in current.sets]
    scored = {label: [s for s in sets if folder.finished(f"evaluate/{label}/{s}")] for label in labels}
    if lacking := [label for label, found in scored.items() if not found]:
        raise DataError(
            f"'{lacking[0]}' has no scores in {folder.path}; 'shibolet evaluate' makes them, from a model or from "
            f"hypotheses: --hypotheses {lacking[0]}=FILE"
        )
    common = [name for name in sets if all(name in found for found in scored.values())]
    if left_out := sorted({name for found in scored.values() for name in found} - set(common)):
        current.tell(
            f"compare: not all of {', '.join(labels)} have scores on {', '.join(left_out)}, so they are left out"
        )
    if not common:
        raise DataError(f"{', '.join(labels)} have no set in common")
    scores = [[folder.verified(f"evaluate/{label}/{set_name}") for set_name in common] for label in labels]
    read = [f"evaluate/{label}/{set_name}" for label in labels for set_name in common]
    made_with = compared_with(current, SystemsComparison.FORMAT)
    stage = current.begin("systems", {"systems": list(labels), "scores": scores, **made_with}, reads=read)
    if not stage.done:
        rows = {
            _named(current, label, common[0]): [
                row for set_name in common for row in read_rows(folder.evaluation(label, set_name))
            ]
            for label in labels
        }
        overlaps = {label: overlaps_of(current, label, common) for label in labels}
        compare_systems(rows, recipe.compare, recipe.evaluate.buckets_s, overlaps).write(folder.systems)
        current.finish(stage)
    return SystemsComparison.read(folder.systems)


def _named(current: Round, label: str, set_name: str) -> Named:
    """What was scored under a label, as it is called there."""
    return Named(label=label, title=Scores.read(current.folder.scores(label, set_name)).title)
