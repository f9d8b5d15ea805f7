"""What the audit detects: clips that were damaged on purpose, by kind, domain, noise level and length."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.audit.calibration import CANDIDATES, EVIDENCE, HYPOTHESIS, Good, fit, logits
from shibolet.audit.config import AuditConfig
from shibolet.audit.probability import Example
from shibolet.audit.selftest import UNTOUCHED, folds
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import judge
from shibolet.errors import DataError
from shibolet.records.documents.calibration import AblationLine, Calibration, DetectionLine, ErrorRates, LeftOutLine
from shibolet.scoring.roc import Scores, auroc, recall_at

FALSE_ALARMS = (0.01, 0.02, 0.05)
# All damage of the matrix. The sensitivity that corrects a rate is that over both, in equal parts.
_CUTS = tuple(f"{what}_{side}_cut" for what in ("text", "audio") for side in ("head", "tail"))
_EDITS = ("words_dropped", "run_dropped", "words_inserted", "words_substituted", "reordered")
GROSS = (
    *(f"swapped:{which}" for which in ("random", "same speaker", "nearest length", "nearest text")),
    *(f"{cut}:50%" for cut in _CUTS), *(f"{edit}:40%" for edit in _EDITS), "shifted:2 s", "shifted:5 s",
    "shuffled_letters", "other_language:audio", *(f"no_speech:{what}" for what in ("silence", "noise", "tones")),
)  # fmt: skip
MILD = (
    *(f"{cut}:{share}" for cut in _CUTS for share in ("10%", "25%")),
    *(f"{edit}:{share}" for edit in _EDITS for share in ("10%", "20%")), *(f"{edit}:1 word" for edit in _EDITS[:-1]),
    "shifted:0.5 s", "shifted:1 s",
)  # fmt: skip
SNR_EDGES_DB = (10, 20, 30)
# Kinds that do the same to a listener: a map that has seen one has seen the others. Other kinds stand alone.
FAMILIES = {
    "another text": ("swapped", "shuffled_letters", "other_language"),
    "text missing": ("text_head_cut", "text_tail_cut", "words_dropped", "run_dropped"),
    "audio cut": ("audio_head_cut", "audio_tail_cut", "shifted"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A clip that was heard: an untouched one, or a copy of it by a row of the matrix."""

    row: str  # UNTOUCHED, or the row's name: "text_tail_cut:25%"
    harmless: bool
    clip: str  # the untouched clip that it is, or is a copy of
    recording: str
    domain: str
    num_words: int  # of the original
    signals: Signals | None  # None: it could not be heard, which is a flag by itself
    num_placed: int = 0  # words that the aligner gave back


def fit_trials(trials: Iterable[Trial], identities: tuple[str, ...], evidence: Sequence[str] = EVIDENCE) -> Calibration:
    """The confidence map of these trials; those that could not be heard teach nothing."""
    heard = [t for t in trials if t.signals is not None]
    good = [
        Good(signals=t.signals, clip=t.clip, is_untouched=t.row == UNTOUCHED, kind=t.row) for t in heard if t.harmless
    ]
    damaged = [t.signals for t in heard if not t.harmless]
    return fit(good, damaged, identities, trusted=True, evidence=evidence)


def detection_table(trials: Sequence[Trial], calibration: Calibration, config: AuditConfig) -> list[DetectionLine]:
    """A line for each row of the matrix, over all clips and within each domain, noise level and length class.

    AUROC and recall at a rate of false alarms are those of the confidence, against the untouched clips of the same
    slice (of the same noise level: against the harmless copies too, which is where noise comes from). `flagged` and
    `flagged_literal` are shares of verdicts: by our definitions, and by the specification's literal ones.
    """
    scores, flagged = _judged(trials, calibration, config)
    lines = []
    for slice_by, name_of in SLICES.items():
        slices: dict[str, list[int]] = defaultdict(list)
        for i, trial in enumerate(trials):
            slices[name_of(trial)].append(i)
        for name, members in slices.items():
            good = [i for i in members if trials[i].row == UNTOUCHED or (slice_by == "snr_db" and trials[i].harmless)]
            by_row: dict[str, list[int]] = defaultdict(list)
            for i in members:
                by_row[trials[i].row].append(i)
            for row, own in by_row.items():
                lines.append(
                    DetectionLine(
                        row=row, harmless=trials[own[0]].harmless, by=slice_by, slice=name, num=len(own),
                        flagged=round(float(flagged[own].mean()), 4),
                        flagged_literal=round(float(np.mean([is_flagged_literally(trials[i]) for i in own])), 4),
                        **(_detected(trials, scores, good, own) if good and not trials[own[0]].harmless else {}),
                    )
                )  # fmt: skip
    return lines


def _snr(trial: Trial) -> str:
    if trial.signals is None:
        return "not heard"
    place = int(np.searchsorted(SNR_EDGES_DB, trial.signals.snr_db, "right"))
    if place == 0:
        return f"under {SNR_EDGES_DB[0]} dB"
    if place == len(SNR_EDGES_DB):
        return f"{SNR_EDGES_DB[-1]} dB and over"
    return f"{SNR_EDGES_DB[place - 1]} to {SNR_EDGES_DB[place]} dB"


def _length(num_words: int) -> str:
    return "under 6 words" if num_words < 6 else "6 to 20 words" if num_words <= 20 else "over 20 words"


SLICES: dict[str, Callable[[Trial], str]] = {
    "all": lambda trial: "all",
    "domain": lambda trial: trial.domain,
    "snr_db": _snr,
    "words": lambda trial: _length(trial.num_words),
}


def is_flagged_literally(trial: Trial, min_coverage: float = 0.6, min_confidence: float = 0.5) -> bool:
    """The specification's verdict: coverage = aligned / expected words, and the aligner has no confidence to be low.

    An aligner gives every word back wherever it may be, so this is the negative control: it cannot fail.
    """
    if trial.signals is None:
        return True
    coverage, confidence = trial.num_placed / trial.signals.num_words, 1.0
    return coverage < min_coverage or confidence < min_confidence


def detector_rates(trials: Sequence[Trial], calibration: Calibration, config: AuditConfig, name: str) -> ErrorRates:
    """Sensitivity and specificity of the verdict on clips that did not fit the map, each domain in equal parts.

    Sensitivity is the mean of that for gross and that for mild damage; None of one that these clips are too small for.
    """
    _, flagged = _judged(trials, calibration, config)
    cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for trial, flag in zip(trials, flagged, strict=True):
        cells[trial.row, trial.domain].append(bool(flag))
    mean = lambda rows: float(np.mean([np.mean(own) for (row, _), own in cells.items() if row in rows]))  # noqa: E731
    found = {
        name: round(mean(rows), 4) for name, rows in (("gross", GROSS), ("mild", MILD)) if _num_clips(trials, rows)
    }
    if not found:
        raise DataError(f"'{name}': no clip is long enough for a damaged copy, so nothing can be measured on it")
    return ErrorRates(
        sensitivity=round(float(np.mean(list(found.values()))), 4),
        sensitivity_gross=found.get("gross"),
        sensitivity_mild=found.get("mild"),
        specificity=round(1 - mean((UNTOUCHED,)), 4),
        num_damaged=_num_clips(trials, (*GROSS, *MILD)),
        num_clean=_num_clips(trials, (UNTOUCHED,)),
        measured_on=f"{name}, the half of its recordings that did not fit the map; {' and '.join(found)} damage in "
        "equal parts",
    )


def _num_clips(trials: Sequence[Trial], rows: Sequence[str]) -> int:
    """Clips behind a mean over domains in equal parts: five of one domain weigh as much as 145 of another (Kish)."""
    clips: dict[str, set[str]] = defaultdict(set)
    for trial in trials:
        if trial.row in rows:
            clips[trial.domain].add(trial.clip)
    return int(len(clips) ** 2 / sum(1 / len(own) for own in clips.values())) if clips else 0


def examples_of(trials: Sequence[Trial], calibration: Calibration) -> list[Example]:
    """What a probability is fitted on: these trials, which did not fit the map; damage behind noise is left out."""
    part_of = {**dict.fromkeys(GROSS, "gross"), **dict.fromkeys(MILD, "mild")}
    part_of |= {t.row: "good" for t in trials if t.harmless}
    heard = [t for t in trials if t.signals is not None and t.row in part_of]
    recording, domain = {t.clip: t.recording for t in heard}, {t.clip: t.domain for t in heard}
    fold = {clip: number for number, own in enumerate(folds(recording, recording, domain)) for clip in own}
    return [
        Example(logit=float(logit), part=part_of[t.row], row=t.row, clip=t.clip, fold=fold[t.clip])
        for t, logit in zip(heard, logits(calibration, [t.signals for t in heard]), strict=True)
    ]


def left_out(fitting: Sequence[Trial], held_out: Sequence[Trial], identities: tuple[str, ...]) -> list[LeftOutLine]:
    """What a map detects of damage that it never saw: fitted without each family of kinds in turn."""
    good = [i for i, t in enumerate(held_out) if t.row == UNTOUCHED]
    lines = []
    for family in dict.fromkeys(family_of(t.row) for t in fitting if not t.harmless):
        calibration = fit_trials([t for t in fitting if family_of(t.row) != family], identities)
        scores = _logits(held_out, calibration)
        for row in dict.fromkeys(t.row for t in fitting if family_of(t.row) == family):
            own = [i for i, t in enumerate(held_out) if t.row == row]
            if own:
                found = _detected(held_out, scores, good, own)
                lines.append(LeftOutLine(row=row, family=family, num=len(own), **found))
    return lines


def family_of(row: str) -> str:
    """What a row of the matrix does to a listener; its kind where no other kind does the same."""
    kind = row.partition(":")[0]
    return next((family for family, kinds in FAMILIES.items() if kind in kinds), kind)


def ablation(fitting: Sequence[Trial], held_out: Sequence[Trial], identities: tuple[str, ...]) -> list[AblationLine]:
    """AUROC by row of all signals in use, of all but some, with one more, of each alone: which earn their place."""
    good = [i for i, t in enumerate(held_out) if t.row == UNTOUCHED]
    rows = list(dict.fromkeys(t.row for t in held_out if not t.harmless))
    members = {row: [i for i, t in enumerate(held_out) if t.row == row] for row in rows}

    def line(name: str, scores: np.ndarray) -> AblationLine:
        areas = {row: auroc(_scores(held_out, scores, good), _scores(held_out, scores, own)).value
                 for row, own in members.items()}  # fmt: skip
        recalls = {row: recall_at(0.02, scores[good], scores[own]) for row, own in members.items()}
        return AblationLine(
            signals=name,
            auroc={row: round(area, 4) for row, area in areas.items()},
            recall_at_2pct={row: round(recall, 4) for row, recall in recalls.items()},
            mean_auroc=round(float(np.mean(list(areas.values()))), 4),
            mean_recall_at_2pct=round(float(np.mean(list(recalls.values()))), 4),
        )

    def fitted(names: Sequence[str]) -> np.ndarray:
        return _logits(held_out, fit_trials(fitting, identities, names))

    lines = [line("all", fitted(EVIDENCE))]
    for names in (*((name,) for name in EVIDENCE), HYPOTHESIS):
        lines.append(line(f"all but {' and '.join(names)}", fitted([n for n in EVIDENCE if n not in names])))
    lines += [line(f"all and {name}", fitted([*EVIDENCE, name])) for name in CANDIDATES]
    lines += [line(f"{name} alone", fitted([name])) for name in (*EVIDENCE, *CANDIDATES)]
    return lines


def _judged(trials: Sequence[Trial], calibration: Calibration, config: AuditConfig) -> tuple[np.ndarray, np.ndarray]:
    """Logit of the confidence and whether the verdict is low quality, of each trial."""
    scores = _logits(trials, calibration)
    confidence = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
    flagged = [
        t.signals is None or judge(t.signals, float(c), calibration, config).low_quality
        for t, c in zip(trials, confidence, strict=True)
    ]
    return scores, np.array(flagged)


def _logits(trials: Sequence[Trial], calibration: Calibration) -> np.ndarray:
    """Higher is better; what could not be heard is under everything."""
    heard = [i for i, t in enumerate(trials) if t.signals is not None]
    scores = np.full(len(trials), -np.inf)
    scores[heard] = logits(calibration, [trials[i].signals for i in heard])
    return scores


def _scores(trials: Sequence[Trial], values: np.ndarray, members: Sequence[int]) -> Scores:
    return Scores(values[list(members)], [trials[i].recording for i in members])


def _detected(trials: Sequence[Trial], scores: np.ndarray, good: Sequence[int], own: Sequence[int]) -> dict[str, float]:
    """The fields of `Detected`."""
    area = auroc(_scores(trials, scores, good), _scores(trials, scores, own))
    recalls = {
        f"recall_at_{100 * fa:.0f}pct": round(recall_at(fa, scores[good], scores[own]), 4) for fa in FALSE_ALARMS
    }
    return {
        "auroc": round(area.value, 4), "auroc_lower": round(area.lower, 4), "auroc_upper": round(area.upper, 4),
        **recalls,
    }  # fmt: skip
