"""Beam size and length penalty, compared on the dev split with what each costs; test sets are never read."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from shibolet.errors import DataError, RecipeError
from shibolet.listen.engine import Engine, Written
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.decoding import DecodingTable, MeasuredSetting, Setting
from shibolet.records.documents.scores import Ends
from shibolet.records.utterance import Utterance
from shibolet.rounds.shared import Round

STAGE, TABLE = "tune-decoding", "decoding.json"
GREEDY = Setting(beam_size=1, length_penalty=1.0)
BEAM_SIZES, LENGTH_PENALTIES = (1, 2, 4, 8), (0.6, 1.0, 1.4)


def do_tune_decoding(
    current: Round,
    model: str | None = None,
    beam_sizes: Sequence[int] = BEAM_SIZES,
    length_penalties: Sequence[float] = LENGTH_PENALTIES,
) -> DecodingTable:
    """A row a setting and which to put into the recipe.

    `model` is what was trained here unless given. A setting is recommended over greedy decoding only when the interval
    of its difference in WER, over recordings and speakers, lies below 0. With several settings all intervals hold
    together with 95% (Bonferroni): the best of many looks better than it is.
    """
    if min(beam_sizes, default=0) < 1:
        raise RecipeError(f"beam sizes start at 1, not {min(beam_sizes, default='none')}")
    recipe, folder, expected = current.recipe, current.folder, current.recipe.evaluate.expected_beam_points
    if model is None:
        folder.verified("train")
        model = str(folder.final.absolute())
    grid = [
        GREEDY,
        *(
            Setting(beam_size=beams, length_penalty=penalty)
            for beams in sorted(set(beam_sizes) - {1})
            for penalty in sorted(set(length_penalties))
        ),
    ]
    inputs = {
        "format": DecodingTable.FORMAT,
        "prepared": folder.verified("prepare"),
        "model": current.identity(model),
        "language": recipe.language,
        "evaluate": recipe.evaluate.model_dump(
            mode="json",
            exclude={"sets", "audit_sets", "servers", "beam_size", "length_penalty", "expected_beam_points"},
        ),
        "grid": [[setting.beam_size, setting.length_penalty] for setting in grid],
    }
    stage = current.begin(STAGE, inputs, reads=("prepare",))
    out_dir = folder.path / STAGE
    if not stage.done:
        rows = _measure(current, model, grid)
        _recommend(model, rows, expected).write(out_dir / TABLE)
        current.finish(stage)
    table = DecodingTable.read(out_dir / TABLE)
    if table.expected_points != expected:  # said beside what was measured, and measures nothing
        table = _recommend(table.model, table.settings, expected)
        table.write(out_dir / TABLE)
        stage.finish()
    return table


def _measure(current: Round, model: str, grid: Sequence[Setting]) -> list[MeasuredSetting]:
    from shibolet.evaluate.stage import evaluate_set, read_rows
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.family import load_recogniser
    from shibolet.model.folders import best_device, dtype_on
    from shibolet.scoring.intervals import difference_interval
    from shibolet.scoring.rows import groups_of
    from shibolet.scoring.selection import fold_sums

    dev = dev_utterances(current)
    current.set_threads()
    config, device = current.recipe.evaluate, best_device()
    loaded = load_recogniser(model, dtype=dtype_on(device), device=device)
    audio_s = sum(utterance.duration_s for utterance in dev)
    found: list[MeasuredSetting] = []
    greedy = []
    for setting in grid:
        transcriber = Transcriber(
            loaded, current.recipe.language, batch_utterances=config.batch_utterances,
            max_new_tokens_per_s=config.max_new_tokens_per_s, **dict(setting),
        )  # fmt: skip
        title = f"{len(dev)} dev utterances, beam size {setting.beam_size}, length penalty {setting.length_penalty:g}"
        clock = _Clock(transcriber)
        # Elsewhere and not kept: a result that is found there again would cost nothing.
        with TemporaryDirectory() as scratch, current.track(title) as progress:
            scores = evaluate_set(
                clock,
                dev,
                set_name="dev",
                language=current.recipe.language,
                config=config.model_copy(update=dict(setting)),
                out_dir=Path(scratch),
                named=Named(label=model, title=model),
                identity=loaded.identity,
                on_progress=progress,
            )
            rows = read_rows(Path(scratch))
        greedy = greedy or rows
        change = difference_interval(
            [row.words for row in greedy],
            [row.words for row in rows],
            groups_of(rows),
            level=bonferroni_level(len(grid)),
        )
        found.append(
            MeasuredSetting(
                **dict(setting),
                wer_pct=_pct(scores.wer.rate), cer_pct=_pct(scores.cer.rate), points=_pct(change.value),
                interval_points=(_pct(change.low), _pct(change.high)), folds=fold_sums(rows),
                seconds=_three_digits(clock.seconds), audio_s_per_s=_three_digits(audio_s / clock.seconds),
                times_greedy=_three_digits(clock.seconds / found[0].seconds) if found else 1.0,
            )
        )  # fmt: skip
    return found


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
    """An engine that counts the seconds it takes; reading audio and scoring are not of a setting's cost."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.seconds = engine, 0.0
        self.identity, self.clips_at_once = engine.identity, engine.clips_at_once

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        started = time.perf_counter()
        written = self._engine.write(clips)
        self.seconds += time.perf_counter() - started
        return written


def _pct(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _recommend(model: str, rows: Sequence[MeasuredSetting], expected_points: Ends | None = None) -> DecodingTable:
    """The table with what to put into the recipe, why, how much too good the lowest WER is, and what was expected."""
    from shibolet.scoring.selection import optimism_of  # numpy: kept out of `shibolet --help`

    order = sorted(rows, key=lambda row: (row.wer_pct, row is not rows[0], row.seconds))
    greedy, best, optimism = rows[0], order[0], optimism_of([row.folds for row in order])
    high, chosen = best.interval_points[1], greedy
    lead = f"No difference shown: {best} has the lowest WER, {best.points:+.2f} points, but"
    if best is greedy:
        sentence = "No setting has a lower WER than greedy decoding."
    elif high is None:
        sentence = f"{lead} dev has too few recordings and speakers for an interval. Stay with greedy decoding."
    elif high >= 0:
        sentence = f"{lead} its interval includes 0. Stay with greedy decoding."
    else:
        chosen = best
        sentence = (
            f"Beam size {best.beam_size} with length penalty {best.length_penalty:g} changes WER by "
            f"{best.points:+.2f} points on dev and takes {best.times_greedy:g} times as long"
            f"{', ' + optimism.sentence if optimism else ''}."
        )
    if expected_points:
        sentence += " The plan expects beams to gain {:g} to {:g} points.".format(*expected_points)
    return DecodingTable(
        model=model,
        level_pct=100 * bonferroni_level(len(rows)),
        settings=rows,
        recommended=Setting(beam_size=chosen.beam_size, length_penalty=chosen.length_penalty),
        sentence=sentence,
        optimism=optimism,
        expected_points=expected_points,
    )
