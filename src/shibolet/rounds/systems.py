"""Systems that are no round of the recipe: hypotheses from files, scored like a model's, each compared with each."""

from collections.abc import Sequence
from functools import partial

from shibolet.compare import compare_systems
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.imported import HypothesisFile, read_hypotheses
from shibolet.evaluate.stage import NO_HYPOTHESIS, read_rows, score_hypotheses
from shibolet.records.candidate import Candidate
from shibolet.records.documents.comparison import Named, SystemsComparison
from shibolet.records.documents.scores import Scores
from shibolet.records.files import hash_file, hash_json
from shibolet.rounds.scoring import compared_with, language_of, overlaps_of, score_set
from shibolet.rounds.shared import Round
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language


def do_import(current: Round, systems: Sequence[Candidate]) -> dict[str, dict[str, Scores]]:
    """Scores by system and set; a set that a system's files lack is told and not scored."""
    scores, known = {}, [source.name for source in current.sets]
    for system in systems:
        label, files = system.label, system.source.files
        if label in [named.label for named in current.names]:
            raise RecipeError(f"--hypotheses {label}=...: that name belongs to the recipe's own rounds; take another")
        if strange := [name for name, _ in files if name not in (None, *known)]:
            raise RecipeError(f"--hypotheses {label}/{strange[0]}=...: the recipe's sets are {', '.join(known)}")
        opened = [(name, read_hypotheses(path)) for name, path in files]
        made_by = {"hypotheses": hash_json([[name, hash_file(path)] for name, path in files])}
        found = {source.name: _score(current, system.named, source, opened, made_by) for source in current.sets}
        scores[label] = {name: one for name, one in found.items() if one is not None}
        if not scores[label]:
            raise DataError(
                f"{', '.join(str(path) for _, path in files)}: no hypothesis belongs to an utterance of the recipe's "
                f"sets; the first entries are {', '.join(list(opened[0][1].entries.values())[:3])}"
            )
        for _, file in opened:
            if unused := file.unused:
                current.tell(
                    f"{file.path}: {len(unused)} of {len(file.entries)} entries belong to no utterance of the recipe's "
                    f"sets: {', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}"
                )
    return scores


def _score(
    current: Round,
    named: Named,
    source: DataSource,
    files: Sequence[tuple[str | None, HypothesisFile]],
    made_by: dict[str, str],
) -> Scores | None:
    """The scores of a system on one set; None where none of its files has a hypothesis for it."""
    normaliser, texts, label = get_language(language_of(current, source)).to_scoring, {}, named.label
    for name, file in files:
        if name in (None, source.name):
            found = file.of_set(source.name, current.read(source).utterances, normaliser)
            if twice := sorted(found.keys() & texts.keys()):
                raise DataError(
                    f"{label}: {file.path} and another file both have a hypothesis for utterance '{twice[0]}' of set "
                    f"'{source.name}'; say which set each is of: --hypotheses {label}/SET=FILE"
                )
            texts |= found
    if not texts:
        current.tell(f"{label}: no hypotheses for set '{source.name}', so it is not scored there")
        return None
    scores = score_set(current, named, source, made_by, partial(score_hypotheses, texts))
    if lacking := sum(failure.reason == NO_HYPOTHESIS for failure in scores.failures):
        current.tell(
            f"{label}: {lacking} utterances of '{source.name}' have no hypothesis; their words count as deleted"
        )
    return scores


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
    scores = [[folder.digest(f"evaluate/{label}/{set_name}") for set_name in common] for label in labels]
    made_with = compared_with(current, SystemsComparison.FORMAT)
    stage = current.begin("systems", {"systems": list(labels), "scores": scores, **made_with})
    if not stage.done:
        rows = {
            _named(current, label, common[0]): [
                row for set_name in common for row in read_rows(folder.evaluation(label, set_name))
            ]
            for label in labels
        }
        overlaps = {label: overlaps_of(current, label, common) for label in labels}
        compare_systems(rows, recipe.compare, recipe.evaluate.buckets_s, overlaps).write(folder.systems)
        stage.finish()
    return SystemsComparison.read(folder.systems)


def _named(current: Round, label: str, set_name: str) -> Named:
    """What was scored under a label, as it is called there."""
    return Named(label=label, title=Scores.read(current.folder.scores(label, set_name)).title)
