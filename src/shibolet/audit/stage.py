"""The audit: draw a sample, listen, test the instrument on damaged copies, calibrate, judge, report.

Writes `utterances.parquet` (one row for each utterance heard) and `calibration.json`; the report is written by whoever
has the gate's decision too. What was heard is kept in the cache folder, so that thresholds can be changed without
listening again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from shibolet.audit import selftest
from shibolet.audit.calibrate import read_calibration
from shibolet.audit.calibration import EVIDENCE, Good, fit, logits, looks_damaged
from shibolet.audit.chunks import ShortCollections
from shibolet.audit.clip import Clip, Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.confusions import MANY_ROWS, Confusions
from shibolet.audit.evidence import HeardClips
from shibolet.audit.hearing import Listener
from shibolet.audit.material import Material, clips_of, material_of
from shibolet.audit.probability import Example, recalibrate
from shibolet.audit.signals import Signals
from shibolet.audit.summary import summarise
from shibolet.audit.table import Judged, judge_all, rows_of, unreadable_row
from shibolet.errors import DataError
from shibolet.records.audited import UNREADABLE, read_audited, write_audited
from shibolet.records.documents.alignment import AlignmentReport, SelfTest, StratumSize
from shibolet.records.documents.calibration import Calibration
from shibolet.records.ledger import LedgerLine
from shibolet.records.spilled import SpilledList
from shibolet.records.utterance import Utterance

NO_ALIGNER = (
    "No aligner listened: coverage is not known, and where a word begins and ends only as far as the recogniser says, "
    "so a long utterance may not be cut."
)
MIN_CLIPS = 10  # that a map is fitted on
BEYOND_CALIBRATION = "beyond_calibration"  # longer than all that the audit heard
Progress = Callable[[int, int], None]


def run_audit(
    utterances: Sequence[Utterance],
    ledger: Sequence[LedgerLine],
    *,
    out_dir: Path,
    listener: Listener,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None = None,
    merge: bool = False,
) -> AlignmentReport:
    """The report, less the gate's decision; utterances have their domains.

    `out_dir` lies in the run folder; the tables name audio below that folder relative to it. With `merge` nothing is
    heard: shards have heard it all, or it is an error.
    """
    material = material_of(utterances, config, language).heard_by(listener.can_hear)
    given, detector = None, None
    if config.calibration:
        file = read_calibration(config.calibration, listener.identities, language)
        given, detector = file.calibration, file.detector
        listener.hear_as(given.window_s)
    heard = listener.merge(material.everything) if merge else listener.hear(material.everything, on_progress)
    calibration, tallies = _calibrate(material, heard, listener.identities, config, given)
    judged = _judged(material.utterances, material.clips, material.wordless, heard)
    rows = rows_of(judged, calibration, config, language, out_dir.parent)
    calibration = calibration.model_copy(update={"window_s": listener.window_s})
    calibration.write(out_dir / "calibration.json")
    with listener.decoders() as decoders, ShortCollections(collects_first=False):
        counted = Confusions(language, decoders if len(material.utterances) >= MANY_ROWS else None)
        write_audited(out_dir / "utterances.parquet", counted.passing(chain(rows, map(unreadable_row, ledger))))
        pairs, confused = counted.found()
    strata = {
        name: StratumSize(num_utterances=s.num_utterances, hours=s.hours) for name, s in material.sample.strata.items()
    }
    if ledger:
        hours = sum(line.duration_s or 0.0 for line in ledger) / 3600
        strata[UNREADABLE] = StratumSize(num_utterances=len(ledger), hours=hours)
    report = summarise(
        out_dir / "utterances.parquet",
        strata=strata,
        self_test=tallies,
        calibration=calibration,
        notes=[*material.sample.notes, *material.notes, *listener.notes, *([] if config.aligner else [NO_ALIGNER])],
        population=len(utterances) + len(ledger),
        judged_by="text and audio" if material.has_changed_audio else "text side only",
        detector=detector,
    )
    return report.model_copy(update={"confusions": tuple(pairs), "confused": confused})


def hear_shard(
    utterances: Sequence[Utterance],
    shard: tuple[int, int],
    *,
    listener: Listener,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None = None,
) -> None:
    """Hear the i-th of n parts of an audit, counted from 0, into the listener's folder: `run_audit` finds it there."""
    material = material_of(utterances, config, language).heard_by(listener.can_hear)
    listener.hear(material.everything, on_progress, shard)


def hear_rest(
    utterances: Sequence[Utterance],
    *,
    audit_dir: Path,
    out_path: Path,
    listener: Listener,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None = None,
) -> int:
    """Judge with the audit's calibration what its sample left out, into a table like its own; how many there were."""
    known = {row.id for row in read_audited(audit_dir / "utterances.parquet", short=True)}
    rest = SpilledList(u for u in utterances if u.id not in known)
    _judge(rest, {}, audit_dir, out_path, listener, config, language, on_progress)
    return len(rest)


def hear_set(
    utterances: Sequence[Utterance],
    *,
    audit_dir: Path,
    out_path: Path,
    listener: Listener,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None = None,
) -> None:
    """Judge every utterance of an evaluation set with the calibration of the training data's audit, into a table.

    What is longer than all that the audit heard has no verdict: its calibration knows no such clips.
    """
    heard = read_audited(audit_dir / "utterances.parquet", short=True)
    longest_s = max((row.duration_s for row in heard if row.failure is None), default=0.0)
    detail = f"the audit was calibrated on utterances of up to {longest_s:.1f} s"
    beyond = {
        u.id: Evidence(key=u.id, failure=BEYOND_CALIBRATION, detail=detail)
        for u in utterances
        if u.duration_s > longest_s
    }
    # A row of the table has a domain.
    named = SpilledList(u if u.domain else replace(u, domain=u.source) for u in utterances)
    _judge(named, beyond, audit_dir, out_path, listener, config, language, on_progress)


def hear_long(
    utterances: Sequence[Utterance], listener: Listener, language: str, on_progress: Progress | None = None
) -> dict[str, Evidence]:
    """Evidence on utterances by id, without those whose text has no word that could be checked; nothing is judged."""
    clips, _ = clips_of(utterances, language)
    heard = listener.hear(clips, on_progress)
    return {clip.key: heard[clip.key] for clip in clips}


def _judge(
    utterances: Sequence[Utterance],
    unheard: Mapping[str, Evidence],
    audit_dir: Path,
    out_path: Path,
    listener: Listener,
    config: AuditConfig,
    language: str,
    on_progress: Progress | None,
) -> None:
    """Hear and judge as an audit did, into a table like its own; by id what is `unheard`, and why."""
    calibration = Calibration.read(audit_dir / "calibration.json")
    if calibration.identities != listener.identities:
        raise DataError(f"the calibration in {audit_dir} was made with other models; run 'shibolet audit' again")
    listener.hear_as(calibration.window_s)
    clips, wordless = clips_of((u for u in utterances if u.id not in unheard), language)
    known, heard = {**wordless, **unheard}, listener.hear(clips, on_progress)
    judged = _judged(utterances, clips, known, heard)
    write_audited(out_path, rows_of(judged, calibration, config, language, audit_dir.parent))


def _judged(
    utterances: Iterable[Utterance], clips: Iterable[Clip], known: Mapping[str, Evidence], heard: HeardClips
) -> Iterator[Judged]:
    """Each utterance with its evidence: `known` by id, or the next one of the clips, which were heard first of all."""
    found = zip(clips, heard.in_order())
    for u in utterances:
        if u.id in known:
            yield u, None, known[u.id]
        else:
            yield u, *next(found)


SignalsByKind = Mapping[str, Mapping[str, Signals | None]]  # kind, key of the clip; None: the copy could not be heard


def signals_of(material: Material, heard: Mapping[str, Evidence]) -> dict[str, dict[str, Signals | None]]:
    """Of the tested clips that could be heard, and of their copies."""
    untouched = {o.clip.key: heard[o.clip.key].signals for o in material.tested if heard[o.clip.key].signals}
    signals: dict[str, dict[str, Signals | None]] = defaultdict(dict, {selftest.UNTOUCHED: untouched})
    for kind, clips in material.copies.items():
        for clip in clips:
            key = clip.key.removeprefix(f"{kind}/")
            if key in untouched:
                signals[kind][key] = heard[clip.key].signals
    _drop_others_maps(signals)
    return signals


def fit_on(
    signals: SignalsByKind, keys: Iterable[str], identities: tuple[str, ...], evidence: Sequence[str] = EVIDENCE
) -> Calibration:
    """A map from these clips and their copies."""
    return fit(*_sides(signals, set(keys)), identities, evidence=evidence)


def _sides(signals: SignalsByKind, keys: set[str]) -> tuple[list[Good], list[Signals]]:
    """What stands for good of these clips and their copies, and the damaged copies."""
    good = [
        Good(signals=own, clip=key, is_untouched=kind == selftest.UNTOUCHED)
        for kind in (selftest.UNTOUCHED, *selftest.TAUGHT)
        for key, own in signals[kind].items()
        if key in keys and own
    ]
    return good, [own for kind in selftest.DAMAGES for key, own in signals[kind].items() if key in keys and own]


def _drop_others_maps(signals: dict[str, dict[str, Signals | None]]) -> None:
    """Leave out harmless copies that another map judges than their original.

    Slower by 5%, a clip of 29 s is longer than a Whisper's window, which has no likelihood of it.
    """
    for kind in selftest.HARMLESS:
        for key, own in list(signals[kind].items()):
            if own and (own.text_logp is None) != (signals[selftest.UNTOUCHED][key].text_logp is None):
                del signals[kind][key]


def _calibrate(
    material: Material,
    heard: Mapping[str, Evidence],
    identities: tuple[str, ...],
    config: AuditConfig,
    given: Calibration | None,
) -> tuple[Calibration, SelfTest]:
    """The confidence map and its self-test.

    A map that was `given` saw none of these clips. Else one is fitted on all tested clips, and what is tested are maps
    of four fifths of them, none of which saw the fifth that it judges. On what these say its probability is fitted.
    """
    tested, signals = material.tested, signals_of(material, heard)
    untouched = signals[selftest.UNTOUCHED]
    if len(untouched) < MIN_CLIPS:
        raise DataError(_too_few(material, heard, len(untouched)))
    calibration = given or fit_on(signals, untouched, identities)
    flagged: dict[str, dict[str, bool]] = defaultdict(dict)
    parts = selftest.folds(untouched, {o.clip.key: o.speaker or o.recording for o in tested}, material.domains)
    judged: list[Example] = []
    for number, keys in enumerate(parts):
        held_out = given or fit_on(signals, untouched.keys() - set(keys), identities)
        for kind, own in signals.items():
            present = [key for key in keys if key in own]
            judged += _examples(kind, {key: own[key] for key in present if own[key]}, held_out, number)
            for key, verdict in zip(present, judge_all([own[k] for k in present], held_out, config), strict=True):
                flagged[kind][key] = verdict is None or verdict.low_quality
    if not given:
        doubtful = looks_damaged(*_sides(signals, set(untouched)))
        recalibration = recalibrate([e for e in judged if e.clip not in doubtful])
        calibration = calibration.model_copy(update={"recalibration": recalibration})
    num_words = {o.clip.key: len(o.clip.words) for o in tested}
    return calibration, selftest.summarise(flagged, num_words, material.domains, config.selftest.min_words)


def _too_few(material: Material, heard: Mapping[str, Evidence], num_heard: int) -> str:
    """Why nothing can be calibrated: audio that cannot be read, or a file of hypotheses that calls utterances else."""
    unknown = [o.clip.key for o in material.tested if heard[o.clip.key].failure == "no_hypothesis"]
    if len(unknown) <= len(material.tested) / 2:
        return f"only {num_heard} clips could be heard; calibration needs {MIN_CLIPS}: is the audio readable?"
    id = unknown[0]
    source = next(u.source for u in material.utterances if u.id == id)
    said = (
        f"audit.recogniser: the file of hypotheses has no line for {len(unknown):,} of {len(material.tested):,} "
        f"utterances, such as '{id}'; calibration needs {MIN_CLIPS}"
    )
    if not id.startswith(f"{source}/"):
        return f"{said}. Call the utterances in the file by the ids that the data have"
    return (
        f"{said}. With several sources in data.train an id in the file is 'source/id': write '{id}' and not "
        f"'{id.removeprefix(f'{source}/')}'"
    )


def _examples(kind: str, own: Mapping[str, Signals], calibration: Calibration, fold: int) -> list[Example]:
    """Copies of one kind by key of their clip, judged by a map that they did not fit."""
    part = "gross" if kind in selftest.DAMAGES else "mild" if kind in selftest.MILD else "good"
    return [
        Example(logit=float(logit), part=part, row=kind, clip=key, fold=fold)
        for key, logit in zip(own, logits(calibration, list(own.values())), strict=True)
    ]
