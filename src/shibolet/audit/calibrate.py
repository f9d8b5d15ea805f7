"""Calibration on clean clips: damage copies of them in every way, fit on half of the recordings, measure on the others.

What comes out is a confidence map that the audit of other data can use, bound to the models that listened, and the
proof of what it detects.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shibolet.audit.calibration import Calibration
from shibolet.audit.clip import AudioChange, Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig, CalibrateConfig
from shibolet.audit.damage import Noise, Original, Pool, Row, copies, matrix
from shibolet.audit.detection import UNTOUCHED, Trial, ablation, detection_table, detector_rates, fit_trials, left_out
from shibolet.audit.hearing import Listener
from shibolet.errors import DataError
from shibolet.records.files import read_json, write_json
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

MIN_RECORDINGS, MIN_CLIPS = 4, 20  # in each half
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
    on_progress: Progress | None = None,
) -> dict:
    """Write the calibration file and return its content; `utterances` have domains and are known to be clean.

    `foreign` are recordings in another language. DataError when there is too little to fit on and to measure on.
    """
    halves = _halves(utterances, name, config, language)
    rows = in_noise(matrix(language))
    wanted = [row for row in rows if _is_fitted(row)]
    trials: list[list[Trial]] = []
    made = []
    for half, (originals, own_rows) in enumerate(zip(halves, (wanted, rows), strict=True)):
        pool = Pool(originals, language, [u.audio for u in foreign if _half_of(u.cluster) == half])
        frac = min(1.0, config.copies_per_row / len(originals))
        made.append(copies(own_rows, originals, pool, config.seed, frac=frac))
    clips = [o.clip for half in halves for o in half]
    heard = listener.hear([*clips, *(c for half in made for found in half.values() for c in found)], on_progress)
    domains = {u.id: u.domain for u in utterances}
    harmless = {row.name for row in rows if row.harmless}
    trials = [_trials(half, own, heard, domains, harmless) for half, own in zip(halves, made, strict=True)]
    fitting, held_out = trials
    calibration = replace(fit_trials(fitting, listener.identities), kind=name)
    content = {
        "calibration": calibration.to_json(),
        "language": language,
        "made_of": {
            "utterances": [len(half) for half in halves],
            "recordings": [len({o.recording for o in half}) for half in halves],
            "trials": [len(half) for half in trials],
            "foreign": len(foreign),
        },
        "detector": detector_rates(held_out, calibration, audit, name),
        "table": detection_table(held_out, calibration, audit),
        "left_out": left_out(fitting, held_out, listener.identities),
        "ablation": ablation(fitting, held_out, listener.identities),
    }
    write_json(out_path, content)
    return content


def read_calibration(path: Path, identities: tuple[str, ...]) -> tuple[Calibration, dict]:
    """The confidence map of a calibration file and the detector's error rates; refused for other models."""
    try:
        content = read_json(path)
        calibration, detector = Calibration(**content["calibration"]), content["detector"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"audit.calibration: {path} is no file of 'shibolet calibrate': {error}") from error
    if tuple(calibration.identities) != tuple(identities):
        raise DataError(
            f"calibration {path} was made with the models {', '.join(calibration.identities)}, these are "
            f"{', '.join(identities)}: run 'shibolet calibrate' with these, or leave audit.calibration out"
        )
    return calibration, detector


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
        if len(half) < MIN_CLIPS or len({o.recording for o in half}) < MIN_RECORDINGS:
            raise DataError(
                f"'{name}' is too small to calibrate on: its recordings are halved, to fit on one half and measure on "
                f"the other, and one has {len(half)} clips of {len({o.recording for o in half})} recordings; it takes "
                f"{MIN_CLIPS} of {MIN_RECORDINGS}. Add clean clips, or audit without audit.calibration"
            )
    return halves


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
            row=row, harmless=row == UNTOUCHED or row in harmless, recording=own[origin].recording,
            domain=domains[origin], num_words=len(own[origin].words), signals=heard[key].signals,
            num_placed=len(heard[key].starts_s),
        )
        for row, key, origin in keys
    ]  # fmt: skip
