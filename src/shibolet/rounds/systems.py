"""Systems that are no round of the recipe: hypotheses from files, scored like a model's, each compared with each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from shibolet.compare import compare_systems
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.imported import HypothesisFile, read_hypotheses
from shibolet.evaluate.stage import NO_HYPOTHESIS, read_overlap, read_rows, score_hypotheses
from shibolet.records.files import hash_file, hash_json, read_json, write_json
from shibolet.rounds.shared import Round
from shibolet.rounds.stages import ROUND1, ROUND2, compared_with, language_of, score_set
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

Files = Sequence[tuple[str | None, Path]]  # of one system: the set that a file is of, None where its content decides


def do_import(current: Round, files: Mapping[str, Files]) -> dict[str, dict[str, dict]]:
    """Scores by system and set; a set that a system's files lack is told and not scored."""
    scores, known = {}, [source.name for source in current.sets]
    for label, placed in files.items():
        if label in (ROUND1, ROUND2):
            raise RecipeError(f"--hypotheses {label}=...: that name belongs to the recipe's own rounds; take another")
        if strange := [name for name, _ in placed if name not in (None, *known)]:
            raise RecipeError(f"--hypotheses {label}/{strange[0]}=...: the recipe's sets are {', '.join(known)}")
        opened = [(name, read_hypotheses(path)) for name, path in placed]
        made_by = {"hypotheses": hash_json([[name, hash_file(path)] for name, path in placed])}
        found = {source.name: _score(current, label, source, opened, made_by) for source in current.sets}
        scores[label] = {name: one for name, one in found.items() if one is not None}
        if not scores[label]:
            raise DataError(
                f"{', '.join(str(path) for _, path in placed)}: no hypothesis belongs to an utterance of the recipe's "
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
    label: str,
    source: DataSource,
    files: Sequence[tuple[str | None, HypothesisFile]],
    made_by: dict[str, str],
) -> dict | None:
    """The scores of a system on one set; None where none of its files has a hypothesis for it."""
    normaliser, texts = get_language(language_of(current, source)).to_scoring, {}
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
    scores = score_set(current, label, source, made_by, partial(score_hypotheses, texts))
    if lacking := sum(failure["reason"] == NO_HYPOTHESIS for failure in scores["failures"]):
        current.tell(
            f"{label}: {lacking} utterances of '{source.name}' have no hypothesis; their words count as deleted"
        )
    return scores


def do_compare_systems(current: Round, names: Sequence[str]) -> dict:
    """The content of `systems.json`: every pair of systems that were scored here, on the sets that all of them have."""
    recipe, folder = current.recipe, current.folder
    sets = [source.name for source in current.sets]
    scored = {name: [s for s in sets if folder.finished(f"evaluate/{name}/{s}")] for name in names}
    if lacking := [name for name, found in scored.items() if not found]:
        raise DataError(
            f"'{lacking[0]}' has no scores in {folder.path}; 'shibolet evaluate' makes them, from a model or from "
            f"hypotheses: --hypotheses {lacking[0]}=FILE"
        )
    common = [name for name in sets if all(name in found for found in scored.values())]
    if left_out := sorted({name for found in scored.values() for name in found} - set(common)):
        current.tell(
            f"compare: not all of {', '.join(names)} have scores on {', '.join(left_out)}, so they are left out"
        )
    if not common:
        raise DataError(f"{', '.join(names)} have no set in common")
    scores = [[folder.digest(f"evaluate/{name}/{set_name}") for set_name in common] for name in names]
    stage = current.begin("systems", {"systems": list(names), "scores": scores, **compared_with(current)})
    if stage.done:
        return read_json(folder.systems)
    rows = {
        name: [row for set_name in common for row in read_rows(folder.evaluation(name, set_name))] for name in names
    }
    overlaps = {
        name: {set_name: overlap for set_name in common if (overlap := read_overlap(folder.evaluation(name, set_name)))}
        for name in names
    }
    write_json(folder.systems, compare_systems(rows, recipe.compare, recipe.evaluate.buckets_s, overlaps))
    stage.finish()
    return read_json(folder.systems)
