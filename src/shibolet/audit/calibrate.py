"""Calibration on clean clips: damage copies of them in every way, fit on half of the recordings, measure on the others.

What comes out is a confidence map that the audit of other data can use, bound to the models that listened, and the
proof of what it detects.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from time import monotonic

import numpy as np

from shibolet.audit.audio_changes import Noise
from shibolet.audit.clip import AudioChange, Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig, CalibrateConfig
from shibolet.audit.damage import Original, Pool, Row, copies, matrix
from shibolet.audit.detection import (
    UNTOUCHED,
    Trial,
    ablation,
    detection_table,
    detector_rates,
    examples_of,
    fit_trials,
    left_out,
)
from shibolet.audit.hearing import Listener
from shibolet.audit.probability import recalibrate
from shibolet.errors import DataError
from shibolet.records.documents.calibration import Amount, Budget, CalibrationFile, MadeOf
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

MIN_RECORDINGS, MIN_CLIPS = 4, 20  # in each half
MIN_COPIES = 20  # of a row of the matrix, about, where a budget is short
WARM_UP = 2  # clips of each half, for each process that hears, before time is taken
MEASURED_FRAC = 0.05  # of a budget, that measures the speed
# The map learns from damage that a listener can hear; one wrong word in ten is in the table and not in the fit.
FITTED = (
    *(f"swapped:{which}" for which in ("random", "same speaker", "nearest length")),
    *(f"{what}_{side}_cut:{x}" for what in ("text", "audio") for side in ("head", "tail") for x in ("25%", "50%")),
    *(f"{what}:40%" for what in ("words_dropped", "run_dropped", "words_inserted", "words_substituted")),
    "shifted:2 s", "shuffled_letters", "other_language:audio",
    *(f"no_speech:{what}" for what in ("silence", "noise", "tones")),
)  # fmt: skip
NOT_UNDERSTOOD = ("pink_noise:0 dB", "babble_noise:0 dB")  # harmless, but a listener may well hear another text
IN_NOISE, NOISE_DB = ("swapped:random", "text_tail_cut:50%", "audio_tail_cut:50%"), (10, 5)
Progress = Callable[[int, int], None]
Tell = Callable[[str], None]  # a sentence for the user
Half = tuple[list[Original], dict[str, list[Clip]]]  # clips, and by row of the matrix their copies


def run_calibrate(
    utterances: Sequence[Utterance],
    foreign: Sequence[Utterance] = (),
    *,
    out_path: Path,
    name: str,
    listener: Listener,
    config: CalibrateConfig,
    audit: AuditConfig,
    language: str,
    minutes: float | None = None,
    tell: Tell = lambda sentence: None,
    on_progress: Progress | None = None,
) -> CalibrationFile:
    """Write the calibration file and return it; `utterances` have domains and are known to be clean.

    `foreign` are recordings in another language. With `minutes` so many clips are heard as are expected to fit.
    DataError when there is too little to fit on and to measure on.
    """
    if not listener.hears:
        raise DataError(
            "calibrate: a file has no hypotheses for damaged copies, so it cannot be calibrated; audit with "
            "the file (it calibrates itself), or name a model as audit.recogniser"
        )
    rows = in_noise(matrix(language))
    halves = _draw(utterances, foreign, rows, name, config, language)
    tell(f"calibrate: {_said(_amount(halves))}")
    budget = None
    if minutes is not None:
        listener.settle_window([original.clip for originals, _ in halves for original in originals])
        halves, budget = _fitting(halves, listener, minutes, tell)
    heard = listener.hear(_clips_of(halves), on_progress)
    domains = {u.id: u.domain for u in utterances}
    harmless = {row.name for row in rows if row.harmless}
    trials = [_trials(originals, made, heard, domains, harmless) for originals, made in halves]
    fitting, held_out = trials
    made = {"kind": name, "window_s": listener.window_s}
    calibration = fit_trials(fitting, listener.identities).model_copy(update=made)
    recalibration = recalibrate(examples_of(held_out, calibration))
    calibration = calibration.model_copy(update={"recalibration": recalibration})
    file = CalibrationFile(
        calibration=calibration,
        language=language,
        made_of=MadeOf(
            utterances=tuple(len(originals) for originals, _ in halves),
            recordings=tuple(_num_recordings(originals) for originals, _ in halves),
            trials=tuple(map(len, trials)),
            foreign=len(foreign),
        ),
        budget=budget,
        detector=detector_rates(held_out, calibration, audit, name),
        table=detection_table(held_out, calibration, audit),
        left_out=left_out(fitting, held_out, listener.identities),
        ablation=ablation(fitting, held_out, listener.identities),
        num_lost=listener.num_lost,
    )
    file.write(out_path)
    return file


def read_calibration(path: Path, identities: tuple[str, ...], language: str) -> CalibrationFile:
    """A calibration file; DataError where it is of other models or for another language."""
    file = CalibrationFile.read(path)
    if (models := file.calibration.identities) != tuple(identities):
        raise DataError(
            f"calibration {path} was made with the models {', '.join(models)}, these are "
            f"{', '.join(identities)}: run 'shibolet calibrate' with these, or leave audit.calibration out"
        )
    if file.language != language:
        raise DataError(
            f"calibration {path} was made for {file.language}, and this recipe is for {language}: run "
            "'shibolet calibrate' with this recipe, or leave audit.calibration out"
        )
    return file


def _draw(
    utterances: Iterable[Utterance],
    foreign: Sequence[Utterance],
    rows: Sequence[Row],
    name: str,
    config: CalibrateConfig,
    language: str,
) -> list[Half]:
    """Clips to fit on and clips to measure on, with their copies: of the rows that are fitted, and of all."""
    drawn = []
    for half, originals in enumerate(_halves(utterances, name, config, language)):
        pool = Pool(originals, language, [u.audio for u in foreign if _half_of(u.cluster) == half])
        own_rows = [row for row in rows if half == 1 or _is_fitted(row)]
        frac = min(1.0, config.copies_per_row / len(originals))
        drawn.append((originals, copies(own_rows, originals, pool, config.seed, frac=frac)))
    return drawn


def _halves(
    utterances: Iterable[Utterance], name: str, config: CalibrateConfig, language: str
) -> tuple[list[Original], list[Original]]:
    """Clips to fit on and clips to measure on, no recording in both, drawn so that their order does not matter."""
    rules, halves = get_language(language), ([], [])
    for u in sorted(utterances, key=lambda u: _lot(f"{config.seed}/{u.id}")):
        half = halves[_half_of(u.cluster)]
        if len(half) < config.max_utterances // 2 and (clip := clip_of(u, rules)):
            half.append(Original(clip=clip, recording=u.cluster, speaker=u.speaker))
    for half in halves:
        if not _is_enough(half):
            raise DataError(
                f"'{name}' is too small to calibrate on: its recordings are halved, to fit on one half and measure on "
                f"the other, and one has {len(half)} clips of {_num_recordings(half)} recordings; it takes "
                f"{MIN_CLIPS} of {MIN_RECORDINGS}. Add clean clips, or leave audit.calibration out"
            )
    return halves


def _is_enough(originals: Sequence[Original]) -> bool:
    return len(originals) >= MIN_CLIPS and _num_recordings(originals) >= MIN_RECORDINGS


def _num_recordings(originals: Sequence[Original]) -> int:
    return len({o.recording for o in originals})


def _part(halves: Sequence[Half], first: int, last: int) -> list[Half]:
    """Clips of each half by their place in the draw, with all copies of them: the same whatever else is heard."""
    parts = []
    for originals, made in halves:
        keys = {o.clip.key for o in originals[first:last]}
        copied = {row: [c for c in own if c.key.removeprefix(f"{row}/") in keys] for row, own in made.items()}
        parts.append((originals[first:last], copied))
    return parts


def _clips_of(halves: Sequence[Half]) -> list[Clip]:
    originals = [o.clip for originals, _ in halves for o in originals]
    return [*originals, *(copy for _, made in halves for own in made.values() for copy in own)]


def _amount(halves: Sequence[Half]) -> Amount:
    """How much is to be heard; of a copy, the length of its clip counts."""
    clips, num = _clips_of(halves), sum(len(originals) for originals, _ in halves)
    return Amount(clips=num, copies=len(clips) - num, hours=sum(clip.duration_s for clip in clips) / 3600)


def _said(amount: Amount) -> str:
    return f"{amount.clips:,} clips and {amount.copies:,} copies, {amount.hours:.1f} h of audio"


def _fitting(halves: Sequence[Half], listener: Listener, minutes: float, tell: Tell) -> tuple[list[Half], Budget]:
    """As many of the first clips, each with all of its copies, as can be heard in time; and what that leaves out.

    The speed is that of a first part, which is heard in any case. DataError when not even the least would fit.
    """
    end_s = monotonic() + 60 * minutes
    most, least = max(len(originals) for originals, _ in halves), _least(halves)
    num_measured, hours_per_s = _measure(halves, listener, 60 * minutes * MEASURED_FRAC)
    left_s = max(0.0, end_s - monotonic())
    needed_s = lambda num: _amount(_part(halves, num_measured, num)).hours / hours_per_s  # noqa: E731
    sizes = range(max(least, num_measured), most + 1)
    if not (num_fitting := bisect_right(sizes, left_s, key=needed_s)):
        smallest, enough = _said(_amount(_part(halves, 0, least))), ceil(minutes + (needed_s(least) - left_s) / 60)
        raise DataError(
            f"--minutes {minutes:g} is too short: the smallest calibration has {smallest}, and with these listeners "
            f"that takes --minutes {enough}; what they have heard is kept"
        )
    num = sizes[num_fitting - 1]
    drawn, everything = _part(halves, 0, num), _amount(halves)
    kept = _amount(drawn)
    left_out = Amount(
        clips=everything.clips - kept.clips,
        copies=everything.copies - kept.copies,
        hours=round(everything.hours - kept.hours, 3),
    )
    sentence = f"--minutes {minutes:g} is enough for {_said(kept)}; left out are {_said(left_out)}."
    tell(f"calibrate: all of it takes {needed_s(most) / 60:.1f} min more at this speed. {sentence}")
    return drawn, Budget(minutes=minutes, clips_a_half=num, left_out=left_out, sentence=sentence)


def _least(halves: Sequence[Half]) -> int:
    """Clips of each half that are enough, with about enough copies of each row."""
    num = MIN_CLIPS
    while not all(_is_enough(originals[:num]) for originals, _ in halves):
        num += 1
    copied = [max(map(len, made.values())) / len(originals) for originals, made in halves]  # of a clip, by a row
    return max(num, min(max(len(originals) for originals, _ in halves), ceil(MIN_COPIES / min(copied))))


def _measure(halves: Sequence[Half], listener: Listener, least_s: float) -> tuple[int, float]:
    """How many clips of each half a first part came to, and the hours of audio a second in it.

    It takes `least_s` or longer, of hearing what was not known before; it is everything when that takes less.
    """
    most, took_s, hours = max(len(originals) for originals, _ in halves), 0.0, 0.0
    num = min(most, WARM_UP * listener.num_processes)
    listener.hear(_clips_of(_part(halves, 0, num)))  # loads the models
    while num < most and took_s < least_s:
        part, num_new = _part(halves, num, 2 * num), [0]
        clips, started_s = _clips_of(part), monotonic()
        listener.hear(clips, lambda done, total, num_new=num_new: num_new.append(done))
        if num_new[-1]:
            took_s += monotonic() - started_s
            hours += _amount(part).hours * num_new[-1] / len(clips)
        num = min(most, 2 * num)
    return num, hours / took_s if took_s else float("inf")


def in_noise(rows: Sequence[Row]) -> list[Row]:
    """The matrix, and some of its damage once more under babble."""
    return [
        *rows,
        *(
            Row(kind=row.kind, level=f"{row.level}, {db} dB", change=_noisy(row, db))
            for row in rows
            if row.name in IN_NOISE
            for db in NOISE_DB
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Then:
    """One change of the audio after another."""

    first: AudioChange
    second: AudioChange

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.second(self.first(samples, rng), rng)


def _noisy(row: Row, snr_db: float):
    noise = Noise("babble", snr_db)

    def change(original, pool, rng) -> Clip | None:
        clip = row.change(original, pool, rng)
        return clip and replace(clip, change_audio=_Then(clip.change_audio, noise) if clip.change_audio else noise)

    return change


def _is_fitted(row: Row) -> bool:
    if row.harmless:
        return row.name not in NOT_UNDERSTOOD
    return row.name.partition(",")[0] in FITTED


def _lot(text: str) -> bytes:
    return hashlib.sha256(f"calibrate/{text}".encode()).digest()


def _half_of(recording: str) -> int:
    return _lot(recording)[0] % 2


def _trials(
    originals: Sequence[Original],
    by_row: Mapping[str, Sequence[Clip]],
    heard: Mapping[str, Evidence],
    domains: Mapping[str, str],
    harmless: set[str],
) -> list[Trial]:
    own = {original.clip.key: original for original in originals}
    keys = [(UNTOUCHED, key, key) for key in own]
    keys += [(row, clip.key, clip.key.removeprefix(f"{row}/")) for row, clips in by_row.items() for clip in clips]
    return [
        Trial(
            row=row, harmless=row == UNTOUCHED or row in harmless, clip=origin, recording=own[origin].recording,
            domain=domains[origin], num_words=len(own[origin].words), signals=heard[key].signals,
            num_placed=len(heard[key].starts_s),
        )
        for row, key, origin in keys
    ]  # fmt: skip
