"""Scores in a round: models on its evaluation sets, the candidate against the baseline, one model on one manifest."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import RecipeError
from shibolet.records.candidate import Candidate, Model
from shibolet.records.documents.comparison import Comparison, Named
from shibolet.records.documents.scores import Overlap, Scores
from shibolet.records.files import hash_file
from shibolet.records.utterance import Utterance
from shibolet.rounds.shared import MANIFEST, Round, Track, prepared_of, stream_cache, untracked
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language


def do_evaluate(current: Round, candidates: Sequence[Candidate]) -> dict[str, dict[str, Scores]]:
    """Scores of models by label and set."""
    if not current.sets:
        raise RecipeError("there is nothing to evaluate on: name one or more evaluate.sets")
    return {
        candidate.label: {source.name: _evaluate_set(current, candidate, source) for source in current.sets}
        for candidate in candidates
    }


def candidates_of(
    current: Round, baseline: str | None = None, candidate: str | None = None
) -> tuple[Candidate, Candidate]:
    """The models that a round compares: those given, else the recipe's baseline and what was trained here."""
    if candidate is None:
        current.folder.digest("train")  # there must be one
    models = baseline or current.recipe.models.baseline, candidate or str(current.folder.final.absolute())
    first, second = (
        Candidate(named, Model(model, prepared_of(model))) for named, model in zip(current.names, models, strict=True)
    )
    return first, second


def _evaluate_set(current: Round, candidate: Candidate, source: DataSource) -> Scores:
    from shibolet.evaluate.stage import evaluate_set

    label, model, prepared = candidate.label, candidate.source.name, candidate.source.trained_on
    language = language_of(current, source)
    trained_on = {} if prepared is None else {"trained_on": hash_file(prepared / MANIFEST)}
    made_by = {"model": current.identity(model), **trained_on}

    def score(data: Sequence[Utterance], *, identity: str, **settings) -> Scores:
        overlap = None if prepared is None else current.overlap(source, prepared)
        engine = current.transcriber(model, label, language)
        if current.server(label):
            identity = engine.identity  # that a server has this model is the recipe's word
        return evaluate_set(engine, data, identity=identity, overlap=overlap, **settings)

    return score_set(current, candidate.named, source, made_by, score)


def language_of(current: Round, source: DataSource) -> str:
    """What a set is scored in."""
    return source.language or current.recipe.language


def score_set(current: Round, named: Named, source: DataSource, made_by: dict[str, str], score: Callable) -> Scores:
    """The scores of one system on one set; `made_by` are the inputs that tell systems apart, first what it is."""
    from shibolet.evaluate.stage import NOT_OF_A_SET

    recipe, folder, data, label = current.recipe, current.folder, current.read(source), named.label
    inputs = {
        "format": Scores.FORMAT,
        **made_by,
        "data": data.digest,
        "language": language_of(current, source),
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude=NOT_OF_A_SET),
    }
    stage = current.begin(f"evaluate/{label}/{source.name}", inputs)
    if not stage.done:
        current.retire(*systems_with(current, label), why=f"{label} is scored anew")
        with current.track(f"{named.title} on {source.name}") as progress:
            score(
                data.utterances,
                set_name=source.name,
                language=language_of(current, source),
                config=recipe.evaluate,
                out_dir=folder.evaluation(label, source.name),
                named=named,
                identity=next(iter(made_by.values())),
                ledger=data.ledger,
                on_progress=progress,
            )
        stage.finish()
    return Scores.read(folder.scores(label, source.name))


def systems_with(current: Round, label: str) -> list[str]:
    """The comparison of systems, where it has this one."""
    folder = current.folder
    return ["systems"] if folder.finished("systems") and label in folder.inputs("systems")["systems"] else []


def do_compare(current: Round) -> Comparison:
    """The candidate against the baseline on the recipe's sets."""
    from shibolet.compare import compare
    from shibolet.evaluate.stage import read_rows

    recipe, folder, names = current.recipe, current.folder, current.names
    sets = [source.name for source in current.sets]
    if not _by_language(current)[0]:
        raise RecipeError(f"there is nothing to compare on: name one or more evaluate.sets in {recipe.language}")
    scores = [folder.digest(f"evaluate/{named.label}/{name}") for named in names for name in sets]
    who = [named.model_dump(mode="json") for named in names]
    made_with = compared_with(current, Comparison.FORMAT)
    stage = current.begin("compare", {"scores": scores, "names": who, **made_with})
    if not stage.done:
        own, other = (
            tuple([row for name in some for row in read_rows(folder.evaluation(named.label, name))] for named in names)
            for some in _by_language(current)
        )
        overlaps = overlaps_of(current, names[1].label, sets)
        compare(own, names, recipe.compare, recipe.evaluate.buckets_s, other, overlaps).write(folder.compare)
        stage.finish()
    return Comparison.read(folder.compare)


def overlaps_of(current: Round, label: str, sets: Sequence[str]) -> dict[str, Overlap]:
    """By set, what it shares with the training data of what was scored under a label, where these are known."""
    found = {name: Scores.read(current.folder.scores(label, name)).overlap for name in sets}
    return {name: overlap for name, overlap in found.items() if overlap is not None}


def compared_with(current: Round, format: int) -> dict:
    """What a comparison is made with, beside the scores."""
    return {
        "format": format,
        "compare": current.recipe.compare.model_dump(mode="json"),
        "buckets": current.recipe.evaluate.model_dump(mode="json", include={"buckets_s"}),
    }


def _by_language(current: Round) -> tuple[list[str], list[str]]:
    """Names of the evaluation sets in the recipe's language, and of those in others."""
    own = get_language(current.recipe.language)
    names: tuple[list[str], list[str]] = [], []
    for source in current.sets:
        names[get_language(language_of(current, source)) is not own].append(source.name)
    return names


def evaluate_manifest(
    model: str, manifest: Path, language: str, out_dir: Path | None, track: Track = untracked
) -> Scores:
    """The scores of one model on one manifest; both files go to `out_dir`, or nowhere."""
    from shibolet.evaluate.config import EvaluateConfig
    from shibolet.evaluate.overlap import overlap, read_trained_on
    from shibolet.evaluate.stage import evaluate_set
    from shibolet.listen.executor import local_executor
    from shibolet.listen.open import listener_identity, open_engines
    from shibolet.speech.read import read_source

    config = EvaluateConfig()
    with track("read") as progress:
        utterances, ledger = read_source(DataSource(name=manifest.stem, manifest=manifest), stream_cache(), progress)
    trained = None if (prepared := prepared_of(model)) is None else read_trained_on(prepared)
    identity, batch_utterances = listener_identity(model), config.batch_utterances
    with closing(local_executor()) as executor, TemporaryDirectory() as scratch, track("transcribe") as progress:
        return evaluate_set(
            open_engines(executor, model, language, batch_utterances=batch_utterances),
            utterances,
            set_name=manifest.stem,
            language=language,
            config=config,
            out_dir=out_dir or Path(scratch),
            named=Named(label=model, title=model),
            identity=identity,
            ledger=ledger,
            overlap=None if trained is None else overlap(utterances, trained, manifest.stem),
            on_progress=progress,
        )
