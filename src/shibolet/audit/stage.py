"""The audit: draw a sample, listen, test the instrument on damaged copies, calibrate, judge, report.

Writes `alignment_report.json`, `utterances.parquet` (one row for each utterance heard) and `calibration.json`. What was
heard is kept in the cache folder, so that thresholds can be changed without listening again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq

from shibolet.audit import selftest
from shibolet.audit.calibrate import read_calibration
from shibolet.audit.calibration import Calibration, fit
from shibolet.audit.clip import Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig
from shibolet.audit.damage import Original, Pool, copies
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import Sample, draw_sample
from shibolet.audit.signals import Signals
from shibolet.audit.summary import summarise
from shibolet.audit.table import UNREADABLE, judge_all, row_of, unreadable_row, write_rows
from shibolet.errors import DataError
from shibolet.records.files import read_json, write_json
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

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
) -> dict:
    """The content of `alignment_report.json`, less the gate's decision; utterances have their domains.

    `out_dir` lies in the run folder; the tables name audio below that folder relative to it. With `merge` nothing is
    heard: shards have heard it all, or it is an error.
    """
    sample = draw_sample(utterances, config.sample)
    chosen = [u for u in utterances if u.id in sample.ids]
    clips, wordless = _clips(chosen, language)
    given, detector = None, None
    if config.calibration:
        given, detector = read_calibration(config.calibration, listener.identities)
    tested, copied, everything = _with_copies(chosen, clips, sample, listener, config, language)
    heard = listener.merge(everything) if merge else listener.hear(everything, on_progress)
    calibration, tallies = _calibrate(tested, copied, heard, listener.identities, config, given)
    judged = ((u, wordless.get(u.id) or heard[u.id]) for u in chosen)
    rows = (row_of(u, evidence, calibration, config, language, out_dir.parent) for u, evidence in judged)
    write_json(out_dir / "calibration.json", calibration.to_json())
    write_rows(out_dir / "utterances.parquet", chain(rows, map(unreadable_row, ledger)))
    strata = {name: {"num_utterances": s.num_utterances, "hours": s.hours} for name, s in sample.strata.items()}
    if ledger:
        hours = sum(line.duration_s or 0.0 for line in ledger) / 3600
        strata[UNREADABLE] = {"num_utterances": len(ledger), "hours": hours}
    report = summarise(
        out_dir / "utterances.parquet",
        strata=strata,
        self_test=tallies,
        calibration=calibration,
        notes=[*sample.notes, *listener.notes],
        population=len(utterances) + len(ledger),
    )
    if detector:
        report["detector"] = detector
    write_json(out_dir / "alignment_report.json", report)
    return report


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
    sample = draw_sample(utterances, config.sample)
    chosen = [u for u in utterances if u.id in sample.ids]
    clips, _ = _clips(chosen, language)
    listener.hear(_with_copies(chosen, clips, sample, listener, config, language)[2], on_progress, shard)


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
    calibration = Calibration(**read_json(audit_dir / "calibration.json"))
    known = set(pq.read_table(audit_dir / "utterances.parquet", columns=["id"])["id"].to_pylist())
    rest = [u for u in utterances if u.id not in known]
    if tuple(calibration.identities) != listener.identities:
        raise DataError(f"the calibration in {audit_dir} was made with other models; run 'shibolet audit' again")
    clips, wordless = _clips(rest, language)
    heard = listener.hear(clips, on_progress)
    judged = ((u, wordless.get(u.id) or heard[u.id]) for u in rest)
    write_rows(out_path, (row_of(u, e, calibration, config, language, audit_dir.parent) for u, e in judged))
    return len(rest)


def _clips(utterances: Iterable[Utterance], language: str) -> tuple[list[Clip], dict[str, Evidence]]:
    """What can be listened to, and the evidence on texts without a word that could be checked."""
    rules, clips, wordless = get_language(language), [], {}
    for u in utterances:
        if clip := clip_of(u, rules):
            clips.append(clip)
        else:
            wordless[u.id] = Evidence(key=u.id, failure="no_words", detail=f"no {rules.name} word in '{u.text[:60]}'")
    return clips, wordless


def _with_copies(
    utterances: Iterable[Utterance],
    clips: Sequence[Clip],
    sample: Sample,
    listener: Listener,
    config: AuditConfig,
    language: str,
) -> tuple[list[Clip], dict[str, list[Clip]], list[Clip]]:
    """Clips for the self-test, their damaged copies by kind, and all that an audit listens to."""
    tested = _tested(clips, sample, config.selftest.num_clips)
    by_id = {u.id: u for u in utterances}
    originals = [Original(clip=c, recording=by_id[c.key].cluster, speaker=by_id[c.key].speaker) for c in tested]
    made = copies(selftest.ROWS, originals, Pool(originals, language), config.sample.seed)
    copied = {kind: [copy for copy in own if listener.can_hear(copy)] for kind, own in made.items()}
    keys = {clip.key for clip in tested}
    clips = [selftest.with_broken_times(clip) if clip.key in keys else clip for clip in clips]
    return tested, copied, [*clips, *(copy for kind in copied.values() for copy in kind)]


def _tested(clips: Sequence[Clip], sample: Sample, num_clips: int) -> list[Clip]:
    """Clips for the self-test: the first of the sample, so that hearing more changes no verdict on what was heard."""
    by_id = {clip.key: clip for clip in clips}
    return [by_id[id] for id in sample.in_order if id in by_id][:num_clips]


def _calibrate(
    tested: Sequence[Clip],
    copies: dict[str, list[Clip]],
    heard: Mapping[str, Evidence],
    identities: tuple[str, str],
    config: AuditConfig,
    given: Calibration | None,
) -> tuple[Calibration, dict | None]:
    """The confidence map and its self-test.

    A map that was `given` saw none of these clips. Else one is fitted on all tested clips, and what is tested are two,
    each of which never saw the half that it judges.
    """
    untouched = {c.key: heard[c.key].signals for c in tested if heard[c.key].signals}
    if len(untouched) < 10:
        raise DataError(f"only {len(untouched)} clips could be heard; calibration needs 10: is the audio readable?")
    changed: dict[str, dict[str, Signals | None]] = defaultdict(dict)
    for kind, clips in copies.items():
        for clip in clips:
            key = clip.key.removeprefix(f"{kind}/")
            if key in untouched:
                changed[kind][key] = heard[clip.key].signals
    for kind in selftest.TIMES:
        changed[kind] = {key: heard[f"{kind}/{key}"].signals for key in untouched}

    def fit_on(keys: Iterable[str]) -> Calibration:
        keys = set(keys)
        damaged = [s for kind in selftest.FITTED for key, s in changed[kind].items() if key in keys and s]
        return fit([untouched[key] for key in sorted(keys)], damaged, identities)

    calibration = given or fit_on(untouched)
    folds = [[key for key in untouched if selftest.fold_of(key) == fold] for fold in (0, 1)]
    if min(map(len, folds)) < 5:
        return calibration, None
    flagged: dict[str, dict[str, bool]] = defaultdict(dict)
    for fold, keys in enumerate(folds):
        held_out = given or fit_on(folds[1 - fold])
        for kind, signals in {"untouched": untouched, **changed}.items():
            present = [key for key in keys if key in signals]
            for key, verdict in zip(present, judge_all([signals[k] for k in present], held_out, config), strict=True):
                flagged[kind][key] = verdict is None or verdict.low_quality
    num_words = {clip.key: len(clip.words) for clip in tested}
    return calibration, selftest.summarise(flagged, num_words, config.selftest.min_words)
