"""Scores in a round: candidates on its evaluation sets, one against the baseline; and one model on one manifest."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import RecipeError, did_you_mean
from shibolet.records.candidate import Candidate, Model
from shibolet.records.documents.comparison import Comparison, Named
from shibolet.records.documents.scores import Overlap, Scores
from shibolet.records.files import cache_dir, hash_json
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import prepared_of
from shibolet.rounds.doubting import do_audit_sets, do_doubtful, doubted
from shibolet.rounds.fit import untold_style
from shibolet.rounds.non_speech import do_non_speech, non_speech_stage, read_non_speech
from shibolet.rounds.scorers import language_of, scores_of
from shibolet.rounds.shared import Round, Track, untracked
from shibolet.scoring.rows import ScoredRow
from shibolet.speech.sources import manifest_at
from shibolet.speech.text import get_language
from shibolet.speech.text.terms import as_context, words_of


def do_evaluate(current: Round, candidates: Sequence[Candidate]) -> dict[str, dict[str, Scores]]:
    """Scores of candidates by label and set."""
    if not current.sets:
        raise RecipeError("there is nothing to evaluate on: name one or more evaluate.sets")
    if sentence := untold_style(current.recipe):
        current.tell(f"evaluate: {sentence}")
    do_audit_sets(current)
    found = {}
    for candidate in candidates:
        found[candidate.label] = scores_of(current, candidate)
        if silent := do_non_speech(current, candidate):  # with the transcriber that is there
            current.tell(f"evaluate: {silent.sentence}")
    doubts = [do_doubtful(current, one.named, found[one.label]) for one in candidates]
    said = [" ".join(one.sentences) for own in doubts for one in own.values()]
    for sentence in dict.fromkeys(said):  # of a set without any it is the same for every system
        current.tell(f"evaluate: {sentence}")
    return found


def require_target_domain(current: Round, *, download: bool = True) -> None:
    """RecipeError where no utterance that is compared is of `compare.target_domain`; reads sets until one is.

    Without `download` nothing is read, and nothing refused, where a set is still on the Hub.
    """
    wanted, sources = current.recipe.compare.target_domain, current.recipe.evaluate.sets
    if wanted is None or not (download or all(one.hub is None or Path(one.hub).exists() for one in sources)):
        return
    with current.timed("target-domain"):  # what is downloaded here is not of the next stage
        own, known = by_language(current)[0], set()
        for source in sorted(current.sets, key=lambda one: one.domain != wanted):
            if source.name in own:
                data = current.read(source)
                known |= {row.domain for row in (*data.utterances, *data.ledger) if row.domain}
            if wanted in known:
                return
    if own:
        found = ", ".join(sorted(known)) or "none: give each set its 'domain'"
        raise RecipeError(
            f"compare.target_domain: no utterance of evaluate.sets in {current.recipe.language} is of "
            f"'{wanted}'{did_you_mean(wanted, sorted(known))} (domains: {found})"
        )


def candidates_of(
    current: Round, baseline: str | None = None, candidate: str | None = None
) -> tuple[Candidate, Candidate]:
    """The models that a round compares: those given, else the recipe's baseline and what was trained here."""
    if candidate is None:
        current.folder.verified("train")
    recipe = current.recipe
    baseline = baseline or (recipe.models and recipe.models.baseline)
    if baseline is None:
        raise RecipeError(f"recipe '{recipe.name}' names no models.baseline; give --baseline MODEL")
    models = baseline, candidate or str(current.folder.final.absolute())
    first, second = (
        Candidate(named, Model(model, prepared_of(model))) for named, model in zip(current.names, models, strict=True)
    )
    return first, second


def do_compare(current: Round) -> Comparison:
    """The candidate against the baseline on the recipe's sets."""
    from shibolet.compare import compare
    from shibolet.evaluate.stage import read_rows

    recipe, folder, names = current.recipe, current.folder, current.names
    sets = [source.name for source in current.sets]
    if not by_language(current)[0]:
        raise RecipeError(f"there is nothing to compare on: name one or more evaluate.sets in {recipe.language}")
    scored = [f"evaluate/{named.label}/{name}" for named in names for name in sets]
    scores = [folder.verified(stage) for stage in scored]
    who = [named.model_dump(mode="json") for named in names]
    own_sets, _ = by_language(current)
    doubts, heard_codecs = doubted(current, names, own_sets), _heard_codecs(current)
    made_with = compared_with(current, Comparison.FORMAT) | {"heard_codecs": heard_codecs}
    seeds = [[named.label for named in others.values()] for others in current.seeds]
    of_seeds = [f"evaluate/{label}/{name}" for others in seeds for label in others for name in own_sets]
    silence = read_non_speech(current, [named.label for named in names])
    silent = [non_speech_stage(named.label) for named in names] if silence else []
    made_from = {
        "scores": [*scores, *map(folder.verified, of_seeds)],
        "names": who,
        "references in doubt": doubts and hash_json(asdict(doubts)),
        "non-speech": [folder.verified(stage) for stage in silent],
    }
    terms = _terms(current)
    made_with |= {"terms": sorted(terms)} if terms else {}
    audited = [f"audit-sets/{name}" for name in doubts.judged] if doubts else []
    reads = [*scored, *of_seeds, *audited, *silent]
    stage = current.begin("compare", {**made_from, **made_with}, reads=reads)
    if not stage.done:

        def rows(label: str, some: Sequence[str]) -> list[ScoredRow]:
            return [row for name in some for row in read_rows(folder.evaluation(label, name))]

        own, other = (tuple(rows(named.label, some) for named in names) for some in by_language(current))
        other_seeds = tuple([rows(label, own_sets) for label in others] for others in seeds)
        overlaps = overlaps_of(current, names[1].label, sets)
        buckets = recipe.evaluate.buckets_s
        languages = {source.name: get_language(language_of(current, source)) for source in current.sets}
        compared = compare(
            own, names, recipe.compare, buckets, other, overlaps, heard_codecs, doubts, languages, other_seeds, silence,
            terms,
        )  # fmt: skip
        compared.write(folder.compare)
        current.finish(stage)
    return Comparison.read(folder.compare)


def _terms(current: Round) -> frozenset[str]:
    """Words of the recipe's list, as the scores count them apart."""
    given = current.recipe.evaluate.context
    return words_of(given.terms(), get_language(current.recipe.language).to_scoring) if given else frozenset()


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


def _heard_codecs(current: Round) -> bool:
    """Whether the recipe trains with codec augmentation."""
    train = current.recipe.train
    return bool(train and train.augment and train.augment.codec)


def by_language(current: Round) -> tuple[list[str], list[str]]:
    """Names of the evaluation sets in the recipe's language, and of those in others."""
    own = get_language(current.recipe.language)
    names: tuple[list[str], list[str]] = [], []
    for source in current.sets:
        names[get_language(language_of(current, source)) is not own].append(source.name)
    return names


def evaluate_manifest(
    model: str,
    manifest: str | Path,
    language: str,
    out_dir: Path | None,
    track: Track = untracked,
    style: str = "",
    context: Path | None = None,
    on: str | None = None,
) -> Scores:
    """The scores of one model on one manifest, of a path or URL; both files go to `out_dir`, or nowhere.

    `context` is a file of terms; `on` is a cluster that transcribes.
    """
    from shibolet.evaluate.config import ContextConfig, EvaluateConfig, StylesConfig
    from shibolet.evaluate.overlap import overlap, read_trained_on
    from shibolet.evaluate.stage import evaluate_set
    from shibolet.listen.open import listener_identity, open_engines, open_executor
    from shibolet.speech.read import read_source

    terms = ContextConfig(file=context) if context else None
    config = EvaluateConfig(styles=StylesConfig(candidate=style or None), context=terms)
    told = as_context(terms.terms()) if terms else ""
    with track("read", "rows") as progress:
        source = manifest_at(manifest)
        utterances, ledger = read_source(source, cache_dir(), progress, language)
    trained = None
    if (prepared := prepared_of(model)) is not None:
        RunFolder(prepared.parent).intact("prepare")
        trained = read_trained_on(prepared)
    identity = listener_identity(model)
    with closing(open_executor(on)) as executor, TemporaryDirectory() as scratch, track("transcribe") as progress:
        return evaluate_set(
            open_engines(executor, model, language, **config.engine_settings(style, told)),
            utterances,
            set_name=source.name,
            language=language,
            config=config,
            out_dir=out_dir or Path(scratch),
            named=Named(label=model, title=model),
            identity=identity,
            ledger=ledger,
            overlap=None if trained is None else overlap(utterances, trained, source.name),
            on_progress=progress,
        )
