"""Averages of models in a run folder: of checkpoints, of finished models, of a model and the one that it started from.

Each average is written as its family saves, read back and scored, so that scores are of the model that is written.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import EvaluationSet
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.records.documents.average import Average, AveragedPart, AveragedScore, TriedAverage
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.training import TrainResult
from shibolet.records.files import hash_file, make_folder
from shibolet.records.names import check_name
from shibolet.records.runs import prepared_of
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round
from shibolet.rounds.tuning import bonferroni_level, dev_utterances
from shibolet.scoring.rows import ScoredRow
from shibolet.speech.text import get_language

TABLE, MODEL, SCRATCH = "average.json", "model", "scratch"
DEV = "dev"
Method = Literal["uniform", "greedy", "interpolation"]


@dataclass(frozen=True, slots=True)
class Source:
    """A model that is to be averaged."""

    title: str
    identity: str
    load: Callable[[], LoadedModel]
    prepared: Path | None  # what it was trained on; None: not known


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """What is averaged, and how."""

    sources: Sequence[Source]
    method: Method
    alphas: Sequence[float] = ()  # of an interpolation: shares of the second source, the first has the rest
    sets: Sequence[EvaluationSet] = field(default=())  # scored beside dev


def best_checkpoints(current: Round, number: int) -> list[Source]:
    """The best of this run by its dev WER in training, of those that it kept; RecipeError where there are fewer."""
    from shibolet.model.lora import merge_lora
    from shibolet.train.checkpoint import CheckpointStore
    from shibolet.train.stage import model_at

    recipe, folder = current.recipe, current.folder
    folder.verified("train")
    store = CheckpointStore(folder.checkpoints)
    kept = set(store.steps())
    scored = [one for one in TrainResult.read(folder.train_result).dev if one.step in kept]
    steps = [one.step for one in sorted(scored, key=lambda one: (one.wer, one.step))]
    if not 2 <= number <= len(steps):
        raise RecipeError(
            f"--best {number}: {folder.checkpoints} has {len(steps)} checkpoints with a dev score (steps "
            f"{', '.join(map(str, sorted(steps))) or 'none'}), and an average takes two or more; a training keeps as "
            "many of the best as train.average_best says"
        )

    def source(step: int) -> Source:
        def load() -> LoadedModel:
            weights = store.at(step).weights()
            loaded = model_at(recipe.models.base, recipe.train, recipe.seed, weights)
            merge_lora(loaded.model, weights)
            return loaded

        return Source(f"step {step}", hash_file(store.path(step) / "manifest.json"), load, folder.prepared)

    return [source(step) for step in steps[:number]]


def models(current: Round, names: Sequence[str]) -> list[Source]:
    """Finished models by name."""
    from functools import partial

    return [Source(name, current.identity(name), partial(load_recogniser, name), prepared_of(name)) for name in names]


def sets_named(current: Round, names: Sequence[str]) -> list[EvaluationSet]:
    """Sets of the recipe by name; RecipeError for others."""
    by_name = {source.name: source for source in current.sets}
    if strange := [name for name in names if name not in by_name]:
        raise RecipeError(f"--on {strange[0]}: the sets of the recipe are {', '.join(by_name) or 'none'}")
    return [by_name[name] for name in names]


def sets_between(current: Round, names: Sequence[str]) -> list[EvaluationSet]:
    """Sets that an interpolation is scored on: these, and all that a limit is about; without names all other languages.

    A limit that no set of its language is heard for would hold nothing back.
    """
    if not names:
        return other_language_sets(current)
    named, limit_of = sets_named(current, names), current.recipe.compare.limit_of
    limited = [one for one in current.sets if limit_of(get_language(language_of(current, one))) is not None]
    return [*named, *(one for one in limited if one not in named)]


def other_language_sets(current: Round) -> list[EvaluationSet]:
    """Those of the recipe's sets that are a check of forgetting."""
    own = get_language(current.recipe.language)
    return [source for source in current.sets if get_language(language_of(current, source)) is not own]


def do_average(current: Round, name: str, how: Averaging) -> Average:
    """Try the averages, write the one that dev chooses into `average/<name>/model`, and say what each came to.

    uniform        the mean of all sources
    greedy         the best source on dev, then the next ones by dev WER, each kept while dev WER does not rise
                   ("greedy soup", Wortsman et al. 2022)
    interpolation  (1 - alpha) of the first source and alpha of the second, of which the lowest dev WER is chosen among
                   those that hold the limits of `compare.limits` on `how.sets` (Wortsman et al. 2022, WiSE-FT)
    """
    from shibolet.evaluate.stage import NOT_OF_A_SET

    check_name("average", name)
    _check(how)
    notes = _require_unseen_dev(current, how)
    recipe = current.recipe
    inputs = {
        "format": Average.FORMAT,
        "prepared": current.folder.verified("prepare"),
        "sources": [[source.title, source.identity] for source in how.sources],
        "method": how.method,
        "alphas": list(how.alphas),
        "sets": {one.name: [current.read(one).digest, language_of(current, one)] for one in how.sets},
        "limits": dict(recipe.compare.limits),
        "language": recipe.language,
        "evaluate": recipe.evaluate.identity(NOT_OF_A_SET | {"servers"}),
    }
    stage = current.begin(f"average/{name}", inputs, reads=("prepare",))
    out_dir = current.folder.averaged(name).parent
    if not stage.done:
        trials = _Trials(current, how, out_dir)
        found, soup = {"uniform": _uniform, "greedy": _greedy, "interpolation": _interpolate}[how.method](trials)
        table = _table(current, how, found, soup, notes)
        if table.chosen is not None:
            trials.write(next(one for one in table.tried if one.name == table.chosen))
        shutil.rmtree(out_dir / SCRATCH, ignore_errors=True)
        table.write(out_dir / TABLE)
        current.finish(stage)
    return Average.read(out_dir / TABLE)


def _check(how: Averaging) -> None:
    if how.method == "interpolation":
        if bad := [alpha for alpha in how.alphas if not 0 <= alpha <= 1]:
            raise RecipeError(f"--alpha {bad[0]:g}: it goes from 0, the base, to 1, the tuned model")
    elif len(how.sources) < 2:
        raise RecipeError("an average takes two models or more")
    if len({source.identity for source in how.sources}) < len(how.sources):
        raise RecipeError("two of the models that are to be averaged are the same one; name each once")


def _require_unseen_dev(current: Round, how: Averaging) -> list[str]:
    """Sentences on models of which it is not known; DataError where one was trained on the dev set of this run.

    The split of a run hangs on its seed: the dev set of one seed is training data of another.
    """
    from shibolet.evaluate.overlap import overlap, read_trained_on

    notes, own = [], current.folder.prepared.absolute()
    for source in how.sources:
        if source.prepared is not None and source.prepared.absolute() == own:
            continue
        trained = source.prepared and read_trained_on(source.prepared)
        if not trained:
            notes.append(f"What {source.title} was trained on is not known here: if it knows the dev set, dev cannot "
                         "judge it.")  # fmt: skip
            continue
        if (found := overlap(dev_utterances(current), trained, DEV)).utterances:
            raise DataError(
                f"{source.title} was trained on {found.utterances:,} of the {found.of:,} dev utterances of "
                f"{current.folder.path}, which therefore cannot judge it: give the runs one split (prepare.seed) and "
                "train them anew"
            )
        notes.append(
            f"{source.title} was trained on the data of another run, and 'compare' looks for test audio in the "
            "training data of this one alone."
        )
    return notes


@dataclass(frozen=True)
class _Tried:
    """An average with its scored utterances by set."""

    name: str
    weights: tuple[float, ...]
    identity: str
    rows: Mapping[str, Sequence[ScoredRow]]

    @property
    def dev_wer(self) -> float:
        dev = self.rows[DEV]
        return sum(row.words.errors for row in dev) / max(1, sum(row.words.reference_length for row in dev))


class _Trials:
    """Makes averages of the sources, and scores each once."""

    def __init__(self, current: Round, how: Averaging, out_dir: Path) -> None:
        self.how, self._current, self._out_dir = how, current, out_dir
        self._found: dict[tuple[float, ...], _Tried] = {}
        current.set_threads()

    @cached_property
    def _data(self) -> dict[str, tuple[Sequence[Utterance], str]]:
        """Utterances and language by set; a set that is called dev too has another name here."""
        current = self._current
        sets = {f"set {one.name}": (current.read(one).utterances, language_of(current, one)) for one in self.how.sets}
        return {DEV: (dev_utterances(current), current.recipe.language), **sets}

    def of(self, name: str, members: Sequence[int]) -> _Tried:
        """The mean of some sources, each of the same weight."""
        share = 1 / len(members)
        return self.weighed(name, tuple(share if i in members else 0.0 for i in range(len(self.how.sources))))

    def weighed(self, name: str, weights: tuple[float, ...]) -> _Tried:
        if weights not in self._found:
            self._found[weights] = self._score(name, weights)
        return self._found[weights]

    def _save(self, weights: Sequence[float], path: Path) -> None:
        from shibolet.model.averaging import weighted_mean

        shutil.rmtree(path, ignore_errors=True)
        make_folder(path.parent)
        sources = [source.load for source in self.how.sources]
        mean = weighted_mean(list(zip(sources, weights, strict=True)))
        mean.family.save(mean, path)

    def _score(self, name: str, weights: tuple[float, ...]) -> _Tried:
        from shibolet.evaluate.stage import evaluate_set, read_rows
        from shibolet.listen.transcribe import Transcriber
        from shibolet.model.folders import best_device, dtype_on

        current, path = self._current, self._out_dir / SCRATCH
        self._save(weights, path)
        device = best_device()
        loaded, rows = load_recogniser(str(path), dtype=dtype_on(device), device=device), {}
        for set_name, (utterances, language) in self._data.items():
            config = current.recipe.evaluate_in(language)
            settings = config.engine_settings(config.styles.candidate or "", config.told("candidate"))
            engine = Transcriber(loaded, language, **settings)
            scores = self._out_dir / "scores" / name / set_name
            with current.track(f"{name} on {set_name}") as progress:
                evaluate_set(
                    engine, utterances, set_name=set_name, language=language, config=config, out_dir=scores,
                    named=Named(label=name, title=name), identity=loaded.identity, on_progress=progress,
                )  # fmt: skip
            rows[set_name] = read_rows(scores)
        return _Tried(name, weights, loaded.identity, rows)

    def write(self, chosen: TriedAverage) -> None:
        """The model that was scored; made anew it has the same bytes."""
        from shibolet.model.folders import identity_of

        path = self._out_dir / MODEL
        self._save(chosen.weights, path)
        if identity_of(path) != chosen.identity:
            raise DataError(f"{path} is not the model that was scored; did one of its sources change meanwhile?")


def _uniform(trials: _Trials) -> tuple[list[_Tried], _Tried]:
    """All by themselves, the best first, and their mean; that is made first: what cannot be averaged is not scored."""
    everyone = range(len(trials.how.sources))
    mean = trials.of("mean", everyone)
    alone = sorted((trials.of(f"alone{i + 1}", [i]) for i in everyone), key=lambda one: one.dev_wer)
    return [*alone, mean], mean


def _greedy(trials: _Trials) -> tuple[list[_Tried], _Tried]:
    """The same and every soup that was tried, and the last that did not raise dev WER."""
    tried, mean = _uniform(trials)
    soup, *rest = (one for one in tried if one is not mean)
    members = [soup.weights.index(1.0)]
    for one in rest:
        candidate = [*members, one.weights.index(1.0)]
        found = trials.of(f"soup{'-'.join(str(i + 1) for i in sorted(candidate))}", candidate)
        if found not in tried:
            tried.append(found)
        if found.dev_wer <= soup.dev_wer:
            members, soup = candidate, found
    return tried, soup


def _interpolate(trials: _Trials) -> tuple[list[_Tried], None]:
    """The base first, which all others are compared with; the limits choose, so nothing is chosen yet."""
    return [trials.weighed(f"alpha{alpha:g}", (1 - alpha, alpha)) for alpha in sorted({0.0, *trials.how.alphas})], None


def _table(
    current: Round, how: Averaging, found: Sequence[_Tried], soup: _Tried | None, notes: Sequence[str]
) -> Average:
    from shibolet.scoring.selection import optimism_of

    level = bonferroni_level(len(found))
    tried = [_described(current, how, one, found[0], level) for one in found]
    allowed = [one for one in tried if not one.beyond]
    if how.method == "interpolation":
        chosen = min(allowed, key=lambda one: one.dev.wer_pct, default=None)
    else:
        chosen = next(one for one in tried if one.name == soup.name)
    # of what dev may have chosen from; a mean of all is not chosen, and a soup may not have the lowest WER
    order = sorted(allowed, key=lambda one: (one.dev.wer_pct, one is not chosen))
    by_dev = how.method != "uniform" and chosen is not None and order[0] is chosen
    optimism = optimism_of([one.folds for one in order]) if by_dev else None
    sentence = _sentence(how, tried, chosen)
    return Average(
        method=how.method, parts=[AveragedPart(title=one.title, identity=one.identity) for one in how.sources],
        tried=tried, chosen=chosen and chosen.name, level_pct=100 * level,
        sentence=f"{sentence[:-1]}, {optimism.sentence}." if optimism else sentence,
        optimism=optimism, notes=[*notes, *_used_sets(current, how)],
    )  # fmt: skip


def _described(current: Round, how: Averaging, one: _Tried, reference: _Tried, level: float) -> TriedAverage:
    from shibolet.scoring.selection import fold_sums

    scores = {name: _score_of(reference.rows[name], rows, level) for name, rows in one.rows.items()}
    dev = scores.pop(DEV)
    sets = {name.removeprefix("set "): score for name, score in scores.items()}
    return TriedAverage(
        name=one.name, weights=one.weights, identity=one.identity, dev=dev, folds=fold_sums(one.rows[DEV]), sets=sets,
        beyond=[source.name for source in how.sets if _is_beyond(current, source, sets[source.name])],
    )  # fmt: skip


def _sentence(how: Averaging, tried: Sequence[TriedAverage], chosen: TriedAverage | None) -> str:
    """What was written and what dev says of it."""
    first = tried[0]
    if chosen is None:
        return "No alpha is shown to hold the limits of compare.limits, not even 0; no model is written."
    if chosen is first:
        what = "the base itself (alpha 0)" if how.method == "interpolation" else "the best model by itself"
        return (
            f"No average that may be chosen has a lower dev WER: what is written is {what}, {first.dev.wer_pct:.2f}%."
        )
    high = chosen.dev.interval_points[1]
    shown = high is not None and high < 0
    against = "the base" if how.method == "interpolation" else f"the best model by itself ({first.name})"
    within = "of too few groups for an interval" if high is None else "interval {:+.2f} to {:+.2f}".format(
        *chosen.dev.interval_points
    )  # fmt: skip
    return (
        f"{chosen.name} is written: dev WER {chosen.dev.wer_pct:.2f}%, {chosen.dev.points:+.2f} points against "
        f"{against}, {within}: {'better' if shown else 'no gain is shown'} there."
    )


def _score_of(reference: Sequence[ScoredRow], rows: Sequence[ScoredRow], level: float) -> AveragedScore:
    from shibolet.scoring.counts import EditCounts
    from shibolet.scoring.intervals import difference_interval
    from shibolet.scoring.rows import groups_of

    words, chars = (sum((getattr(row, unit) for row in rows), EditCounts()) for unit in ("words", "chars"))
    change = difference_interval(
        [row.words for row in reference], [row.words for row in rows], groups_of(rows), level=level
    )
    points = [None if value is None else 100 * value for value in (change.value, change.low, change.high)]
    return AveragedScore(
        wer_pct=100 * (words.word_errors().rate or 0.0), cer_pct=100 * (chars.char_errors().rate or 0.0),
        points=points[0] or 0.0, interval_points=(points[1], points[2]),
    )  # fmt: skip


def _is_beyond(current: Round, source: EvaluationSet, score: AveragedScore) -> bool:
    """Whether a set is not shown to lose less than its language may."""
    limit, high = current.recipe.compare.limit_of(get_language(language_of(current, source))), score.interval_points[1]
    return limit is not None and (high is None or high >= limit)


def _used_sets(current: Round, how: Averaging) -> list[str]:
    limited = [one.name for one in how.sets if current.recipe.compare.limit_of(get_language(language_of(current, one)))]
    if how.method != "interpolation" or not limited:
        return []
    return [
        f"The limits were held on {', '.join(limited)}, which helped to choose: what the chosen model loses is shown "
        "by other sets alone."
    ]
