"""How each kind of candidate is scored: a new kind is a class in `records/candidate.py` and a case of `scores_of`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, assert_never

from shibolet.errors import DataError, RecipeError
from shibolet.records.candidate import Candidate, Hypotheses, Model
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.timings import Work
from shibolet.records.files import hash_file, hash_json
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import MANIFEST
from shibolet.records.utterance import Utterance
from shibolet.rounds.shared import Round
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from shibolet.evaluate.imported import HypothesisFile


def scores_of(current: Round, candidate: Candidate) -> dict[str, Scores]:
    """Scores of a candidate by set, without the sets that it has nothing for."""
    match candidate.source:
        case Model() as model:
            return {source.name: _of_model(current, candidate.named, model, source) for source in current.sets}
        case Hypotheses() as hypotheses:
            return _of_hypotheses(current, candidate.named, hypotheses)
        case unknown:
            assert_never(unknown)


def _of_model(current: Round, named: Named, model: Model, source: DataSource) -> Scores:
    from shibolet.evaluate.stage import evaluate_set

    language, prepared = language_of(current, source), model.trained_on
    trained_on = {}
    if prepared is not None:
        RunFolder(prepared.parent).intact("prepare")
        trained_on = {"trained_on": hash_file(prepared / MANIFEST)}
    made_by = {"model": current.identity(model.name), **trained_on}

    def score(data: Sequence[Utterance], *, identity: str, **settings) -> Scores:
        overlap = None if prepared is None else current.overlap(source, prepared)
        engine = current.transcriber(model.name, named.label, language)
        if current.server(named.label):
            identity = engine.identity  # that a server has this model is the recipe's word
        return evaluate_set(engine, data, identity=identity, overlap=overlap, **settings)

    return score_set(current, named, source, made_by, score)


def _of_hypotheses(current: Round, named: Named, hypotheses: Hypotheses) -> dict[str, Scores]:
    """A set that the files lack is told and not scored."""
    from shibolet.evaluate.imported import read_hypotheses

    label, files, known = named.label, hypotheses.files, [source.name for source in current.sets]
    if label.casefold() in [own.label.casefold() for own in current.names]:
        raise RecipeError(f"--hypotheses {label}=...: that name belongs to the recipe's own rounds; take another")
    if strange := [name for name, _ in files if name not in (None, *known)]:
        raise RecipeError(f"--hypotheses {label}/{strange[0]}=...: the recipe's sets are {', '.join(known)}")
    opened = [(name, read_hypotheses(path)) for name, path in files]
    made_by = {"hypotheses": hash_json([[name, hash_file(path)] for name, path in files])}
    found = {source.name: _of_files(current, named, source, opened, made_by) for source in current.sets}
    scores = {name: one for name, one in found.items() if one is not None}
    if not scores:
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


def _of_files(
    current: Round,
    named: Named,
    source: DataSource,
    files: Sequence[tuple[str | None, "HypothesisFile"]],
    made_by: dict[str, str],
) -> Scores | None:
    """The scores on one set; None where none of the files has a hypothesis for it."""
    from shibolet.evaluate.stage import NO_HYPOTHESIS, score_hypotheses

    normaliser, texts, label = get_language(language_of(current, source)).to_scoring, {}, named.label
    for name, file in files:
        if name in (None, source.name):
            found = file.of_set(source.name, current.read(source).utterances, normaliser)
            if file.equals_references:
                current.tell(
                    f"{label}: every hypothesis of {file.path} for set '{source.name}' is the reference itself; are "
                    "these the hypotheses? (under the name 'hypothesis' nobody asks)"
                )
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


def language_of(current: Round, source: DataSource) -> str:
    """What a set is scored in."""
    return source.language or current.recipe.language


def score_set(current: Round, named: Named, source: DataSource, made_by: dict[str, str], score: Callable) -> Scores:
    """The scores of one system on one set; `made_by` are the inputs that tell systems apart, first what it is."""
    from shibolet.evaluate.stage import NOT_OF_A_SET

    folder, data, label, language = current.folder, current.read(source), named.label, language_of(current, source)
    config = current.recipe.evaluate_in(language)
    inputs = {
        "format": Scores.FORMAT,
        **made_by,
        "data": data.digest,
        "language": language,
        "evaluate": config.identity(NOT_OF_A_SET),
    }
    stage = current.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        current.retire(*systems_with(current, label), why=f"{label} is scored anew")
        with current.track(f"{named.title} on {source.name}") as progress:
            score(
                data.utterances,
                set_name=source.name,
                language=language,
                config=config,
                out_dir=folder.evaluation(label, source.name),
                named=named,
                identity=next(iter(made_by.values())),
                ledger=data.ledger,
                on_progress=progress,
            )
        audio_s = sum(utterance.duration_s for utterance in data.utterances)
        current.finish(stage, Work(utterances=len(data.utterances), audio_s=round(audio_s, 3)))
    scores = Scores.read(folder.scores(label, source.name))
    if again := scores.loops.written_again:
        of = f"{again:,} of {scores.num_utterances:,} texts"
        current.tell(f"{named.title} on {source.name}: {of} looped and were written again (evaluate.loop_bias)")
    return scores


def systems_with(current: Round, label: str) -> list[str]:
    """The comparison of systems and the chain of parts, where they have this one."""
    folder = current.folder
    made = [name for name in ("systems", "waterfall") if folder.finished(name)]
    return [name for name in made if label in folder.inputs(name)["systems"]]
