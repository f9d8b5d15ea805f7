"""Ways to decode, compared on the dev split with what each costs; test sets are never read."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import NgramConfig
from shibolet.listen.engine import Engine, Written
from shibolet.listen.mbr import TEMPERATURE
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.decoding import DecodingTable, JoinedSetting, MeasuredSetting, Setting
from shibolet.records.documents.scores import Ends, Scores
from shibolet.records.files import hash_file
from shibolet.records.utterance import Utterance
from shibolet.rounds.joining import measure_joined, with_added
from shibolet.rounds.shared import Round
from shibolet.scoring.rows import ScoredRow, groups_of

STAGE, TABLE = "tune-decoding", "decoding.json"
_TOO_FEW = "dev has too few recordings and speakers for an interval"
# Settings that change nothing in how dev is decoded here; of the n-gram and of names their content is an input.
_NOT_OF_A_WAY = {"sets", "audit_sets", "servers", "ngram", "expected_beam_points", "non_speech", "context"}
GREEDY = Setting(
    beam_size=1, length_penalty=1.0, mbr_samples=None, mbr_temperature=None, repeat_bias=0.0, ngram_weight=0.0
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is compared with greedy decoding; a way that nothing is named for is left out."""

    beam_sizes: Sequence[int] = (2, 4, 8)
    length_penalties: Sequence[float] = (0.6, 1.0, 1.4)  # of each beam size
    mbr_samples: Sequence[int] = (8,)
    mbr_temperatures: Sequence[float] = (TEMPERATURE,)  # of each number of samples
    repeat_biases: Sequence[float] = ()
    # Of beams of one length penalty, where there is an n-gram: all pairs would be a large grid. 0: none.
    ngram_weights: Sequence[float] = (0.1, 0.2, 0.4)

    def settings(self, with_ngram: bool = False) -> list[Setting]:
        """Greedy decoding first; RecipeError for a number that is no way to decode, or that no row would have."""
        for what, values, least in (
            ("beam sizes", self.beam_sizes, 1),
            ("numbers of samples", set(self.mbr_samples) - {0}, 2),
        ):
            if min(values, default=least) < least:
                raise RecipeError(f"tune-decoding: {what} start at {least}, not {min(values)}")
        for what, values in (
            ("temperatures", self.mbr_temperatures),
            ("repeat biases", self.repeat_biases),
            ("weights of an n-gram", set(self.ngram_weights) - {0}),
        ):
            if min(values, default=1) <= 0:
                raise RecipeError(f"tune-decoding: {what} are over 0, not {min(values):g}")
        self._require_rows(with_ngram)
        change = lambda **keys: GREEDY.model_copy(update=keys)  # noqa: E731
        return [
            GREEDY,
            *(
                change(beam_size=beams, length_penalty=penalty, ngram_weight=weight)
                for beams in sorted(set(self.beam_sizes) - {1})
                for penalty in sorted(set(self.length_penalties))
                for weight in sorted(
                    {0.0, *(self.ngram_weights if with_ngram and penalty == _middle(self.length_penalties) else ())}
                )
            ),
            *(
                change(mbr_samples=samples, mbr_temperature=temperature)
                for samples in sorted(set(self.mbr_samples) - {0})
                for temperature in sorted(set(self.mbr_temperatures))
            ),
            *(change(repeat_bias=bias) for bias in sorted(set(self.repeat_biases))),
        ]

    def _require_rows(self, with_ngram: bool) -> None:
        """RecipeError where numbers were asked for, and are not only the usual ones, and none of them has a row."""
        weights = any(self.ngram_weights) and self.ngram_weights is not Grid.ngram_weights
        penalties = self.length_penalties is not Grid.length_penalties
        temperatures = self.mbr_temperatures is not Grid.mbr_temperatures
        beams, samples = set(self.beam_sizes) - {1}, set(self.mbr_samples) - {0}
        for asked, what, has_rows, why in (
            (weights, "weights of an n-gram", with_ngram,
             "there is no n-gram; run 'shibolet ngram RECIPE' or name one in evaluate.ngram"),
            (weights, "weights of an n-gram", beams, "beams add it; give a beam size of 2 or more"),
            (penalties, "length penalties", beams, "they are of beams; give a beam size of 2 or more"),
            (temperatures, "temperatures", samples, "they are of samples; give a number of samples of 2 or more"),
        ):  # fmt: skip
            if asked and not has_rows:
                raise RecipeError(f"tune-decoding: no row would have the {what} that were asked for: {why}")


def do_tune_decoding(
    current: Round,
    model: str | None = None,
    grid: Grid = Grid(),
) -> DecodingTable:
    """A row a setting and which to put into the recipe.

    `model` is what was trained here unless given. Weights go with the recipe's n-gram, else with the one that was made
    here; without either no row has one. A setting is recommended over greedy decoding only when the interval
    of its difference in WER, over recordings and speakers, lies below 0; of several such the one of lowest WER. With
    several settings all intervals hold together with 95% (Bonferroni): the best of many looks better than it is.
    Where one is recommended, `joining.py` adds others to it.
    """
    recipe, folder, expected = current.recipe, current.folder, current.recipe.evaluate.expected_beam_points
    if model is None:
        folder.verified("train")
        model = str(folder.final.absolute())
    recipe.evaluate.require_ngram()
    made = folder.ngram if folder.finished("ngram") else None
    ngram = recipe.evaluate.ngram.file if recipe.evaluate.ngram else made
    reads = ("prepare", "ngram") if ngram and ngram == made else ("prepare",)
    settings = grid.settings(with_ngram=ngram is not None)
    inputs = {
        "format": DecodingTable.FORMAT,
        "prepared": folder.verified("prepare"),
        "model": current.identity(model),
        "language": recipe.language,
        "evaluate": recipe.evaluate.model_dump(
            mode="json",
            exclude={*_NOT_OF_A_WAY, *Setting.model_fields},
        ),
        "grid": [setting.model_dump(mode="json") for setting in settings],
        "ngram": ngram and hash_file(ngram),
        **({"context": told} if (told := recipe.evaluate.told("candidate")) else {}),
    }
    stage = current.begin(STAGE, inputs, reads=reads)
    out_dir = folder.path / STAGE
    if not stage.done:
        dev = _Dev(current, model, ngram, len(settings))
        measured = [dev.measure(setting) for setting in settings]
        rows = [row for row, _ in measured]
        scored = dict(zip(settings, (own for _, own in measured), strict=True))
        base = _recommend(model, rows).recommended
        joined = measure_joined(base, scored, dev.measure, recipe.seed)
        _recommend(model, rows, expected, ngram, joined).write(out_dir / TABLE)
        current.finish(stage)
    table = DecodingTable.read(out_dir / TABLE)
    # By today's rule and expectation: both are said of what was measured, and measure nothing.
    if (again := _recommend(table.model, table.settings, expected, ngram, table.joined)) != table:
        table = again
        table.write(out_dir / TABLE)
        stage.finish()
    return table


def _middle(penalties: Sequence[float]) -> float:
    """The length penalty that weights of an n-gram are tried with."""
    return 1.0 if 1.0 in penalties else sorted(penalties)[len(penalties) // 2]


class _Dev:
    """A model on the dev split, transcribed in one way after another."""

    def __init__(self, current: Round, model: str, ngram: Path | None, num_settings: int) -> None:
        from shibolet.model.family import load_recogniser
        from shibolet.model.folders import best_device, dtype_on

        self._utterances = dev_utterances(current)
        current.set_threads()
        self._current, self._model, self._ngram, device = current, model, ngram, best_device()
        self._loaded = load_recogniser(model, dtype=dtype_on(device), device=device)
        self._level, self._greedy, self._greedy_s = bonferroni_level(num_settings), [], 0.0

    def measure(self, setting: Setting) -> tuple[MeasuredSetting, list[ScoredRow]]:
        """A row of the table, beside greedy decoding, which comes first; and its scored utterances."""
        from shibolet.scoring.intervals import difference_interval
        from shibolet.scoring.selection import fold_sums

        scores, rows, seconds = self._transcribed(setting)
        self._greedy, self._greedy_s = self._greedy or rows, self._greedy_s or seconds
        change = difference_interval(
            [row.words for row in self._greedy], [row.words for row in rows], groups_of(rows), level=self._level
        )
        audio_s = sum(utterance.duration_s for utterance in self._utterances)
        measured = MeasuredSetting(
            **dict(setting),
            wer_pct=_pct(scores.wer.rate), cer_pct=_pct(scores.cer.rate), points=_pct(change.value),
            interval_points=(_pct(change.low), _pct(change.high)), folds=fold_sums(rows),
            seconds=_three_digits(seconds), audio_s_per_s=_three_digits(audio_s / seconds),
            times_greedy=_three_digits(seconds / self._greedy_s),
        )  # fmt: skip
        return measured, rows

    def _transcribed(self, setting: Setting) -> tuple[Scores, list[ScoredRow], float]:
        """Scores, the utterances of them, and the seconds of decoding."""
        from shibolet.evaluate.stage import evaluate_set, read_rows
        from shibolet.listen.transcribe import Transcriber

        current, config, dev, model = self._current, self._current.recipe.evaluate, self._utterances, self._model
        fused = NgramConfig(file=self._ngram, weight=setting.ngram_weight) if setting.ngram_weight else None
        asked = config.greedy.model_copy(update={**setting.recipe_keys, "ngram": fused, "loop_bias": config.loop_bias})
        told = asked.engine_settings(config.styles.candidate or "", config.told("candidate"))
        clock = _Clock(Transcriber(self._loaded, current.recipe.language, **told))
        title = f"{len(dev)} dev utterances, {setting}"
        # Elsewhere and not kept: a result that is found there again would cost nothing.
        with TemporaryDirectory() as scratch, current.track(title) as progress:
            scores = evaluate_set(
                clock,
                dev,
                set_name="dev",
                language=current.recipe.language,
                config=asked,
                out_dir=Path(scratch),
                named=Named(label=model, title=model),
                identity=self._loaded.identity,
                on_progress=progress,
            )
            return scores, read_rows(Path(scratch)), clock.seconds


def dev_utterances(current: Round) -> list[Utterance]:
    """The prepared dev split, all of it; DataError where there is none."""
    dev = [u for u in current.prepared.utterances if Path(u.audio.path).name.startswith("dev-")]
    if not dev:
        raise DataError("there is no dev split to tune on: prepare held nothing out; raise prepare.dev_frac")
    return dev


def bonferroni_level(num_settings: int) -> float:
    """Of one interval, so that those of all settings but the first hold together with 95%."""
    return 1 - 0.05 / max(1, num_settings - 1)


class _Clock(Engine):
    """An engine that counts the seconds it takes to write.

    Reading audio and scoring are not of a setting's cost, and neither is what a GPU does once, at first use.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.seconds = engine, 0.0
        self.identity, self.clips_at_once = engine.identity, engine.clips_at_once

    def warm(self) -> None:
        """`Transcriber.warm`, which is called before the first clip."""
        if hasattr(self._engine, "warm"):
            self._engine.warm()

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        started = time.perf_counter()
        written = self._engine.write(clips)
        self.seconds += time.perf_counter() - started
        return written


def _pct(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _recommend(
    model: str,
    rows: Sequence[MeasuredSetting],
    expected_points: Ends | None = None,
    ngram: Path | None = None,
    joined: Sequence[JoinedSetting] = (),
) -> DecodingTable:
    """The table with what to put into the recipe, why, how much too good the lowest WER is, and what was expected."""
    from shibolet.scoring.selection import optimism_of  # numpy: kept out of `shibolet --help`

    # Equal rows go by what is counted of their cost: a second is not the same on every machine and at every start.
    order = sorted(rows, key=lambda row: (row.wer_pct, row is not rows[0], row.texts_at_once))
    lowest, shown = order[0], [row for row in order if (high := row.interval_points[1]) is not None and high < 0]
    chosen = shown[0] if shown else rows[0]
    # What has a lower WER without evidence was no candidate.
    optimism = optimism_of([row.folds for row in (order[order.index(chosen) :] if shown else order)])
    why = "its interval includes 0" if lowest.interval_points[1] is not None else _TOO_FEW
    if shown:
        said = str(chosen)
        sentence = (
            f"{said[0].upper()}{said[1:]} changes WER by {chosen.points:+.2f} points on dev and takes "
            f"{chosen.times_greedy:g} times as long{', ' + optimism.sentence if optimism else ''}."
        )
        if lowest is not chosen:
            sentence += f" The lowest WER, {lowest.points:+.2f} points, has {lowest}, but {why}."
    elif lowest is rows[0]:
        sentence = "No setting has a lower WER than greedy decoding."
    else:
        sentence = (
            f"No difference shown: {lowest} has the lowest WER, {lowest.points:+.2f} points, but {why}. "
            "Stay with greedy decoding."
        )
    recommended, said = with_added(Setting(**{name: getattr(chosen, name) for name in Setting.model_fields}), joined)
    sentence += said
    if expected_points:
        sentence += " The plan expects beams to gain {:g} to {:g} points.".format(*expected_points)
    return DecodingTable(
        model=model,
        ngram=ngram and str(ngram.absolute()),
        level_pct=100 * bonferroni_level(len(rows)),
        settings=rows,
        joined=joined,
        recommended=recommended,
        sentence=sentence,
        optimism=optimism,
        expected_points=expected_points,
    )
