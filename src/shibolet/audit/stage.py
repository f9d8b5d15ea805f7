"""The audit: draw a sample, listen, test the instrument on damaged copies, calibrate, judge, report.

Writes `alignment_report.json`, `utterances.parquet` (one row for each utterance heard) and `calibration.json`. What was
heard is kept in the cache folder, so that thresholds can be changed without listening again.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shibolet.audit import selftest
from shibolet.audit.calibrate import read_calibration
from shibolet.audit.calibration import Calibration, fit
from shibolet.audit.clip import Clip, Evidence, clip_of
from shibolet.audit.config import AuditConfig
from shibolet.audit.damage import Original, Pool, copies
from shibolet.audit.hearing import Listener
from shibolet.audit.review import human_flags
from shibolet.audit.sampling import draw_sample
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import Verdict, judge
from shibolet.errors import DataError
from shibolet.records.files import read_json, write_bytes, write_json
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech.text import get_language

UNREADABLE = "unreadable"  # the stratum of rows that never became utterances: known whole, all low quality
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
    tested, copied, everything = _with_copies(chosen, clips, listener, config, language)
    heard = listener.merge(everything) if merge else listener.hear(everything, on_progress)
    calibration, tallies = _calibrate(tested, copied, heard, listener.identities, config, given)
    judged = ((u, heard.get(u.id) or wordless[u.id]) for u in chosen)
    rows = [_row(u, evidence, calibration, config, language, out_dir.parent) for u, evidence in judged]
    rows += [_unreadable_row(line) for line in ledger]
    write_json(out_dir / "calibration.json", calibration.to_json())
    _write_rows(out_dir / "utterances.parquet", rows)
    strata = {name: {"num_utterances": s.num_utterances, "hours": s.hours} for name, s in sample.strata.items()}
    if ledger:
        hours = sum(line.duration_s or 0.0 for line in ledger) / 3600
        strata[UNREADABLE] = {"num_utterances": len(ledger), "hours": hours}
    report = _report(
        rows, strata, tallies, calibration, [*sample.notes, *listener.notes], len(utterances) + len(ledger)
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
    ids = draw_sample(utterances, config.sample).ids
    chosen = [u for u in utterances if u.id in ids]
    clips, _ = _clips(chosen, language)
    listener.hear(_with_copies(chosen, clips, listener, config, language)[2], on_progress, shard)


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
    judged = ((u, heard.get(u.id) or wordless[u.id]) for u in rest)
    rows = [_row(u, evidence, calibration, config, language, audit_dir.parent) for u, evidence in judged]
    _write_rows(out_path, rows)
    return len(rest)


def read_verdicts(paths: Iterable[Path]) -> dict[str, dict]:
    """Rows of `utterances.parquet` tables by utterance id."""
    return {row["id"]: row for path in paths for row in pq.read_table(path).to_pylist()}


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
    utterances: Iterable[Utterance], clips: Sequence[Clip], listener: Listener, config: AuditConfig, language: str
) -> tuple[list[Clip], dict[str, list[Clip]], list[Clip]]:
    """Clips for the self-test, their damaged copies by kind, and all that an audit listens to."""
    tested = _tested(clips, config.selftest.num_clips, config.sample.seed)
    by_id = {u.id: u for u in utterances}
    originals = [Original(clip=c, recording=by_id[c.key].cluster, speaker=by_id[c.key].speaker) for c in tested]
    made = copies(selftest.ROWS, originals, Pool(originals, language), config.sample.seed)
    copied = {kind: [copy for copy in own if listener.can_hear(copy)] for kind, own in made.items()}
    keys = {clip.key for clip in tested}
    clips = [selftest.with_broken_times(clip) if clip.key in keys else clip for clip in clips]
    return tested, copied, [*clips, *(copy for kind in copied.values() for copy in kind)]


def _tested(clips: Sequence[Clip], num_clips: int, seed: int) -> list[Clip]:
    """Clips for the self-test: a fixed draw, the same for the same clips in any order."""
    return sorted(clips, key=lambda c: hashlib.sha256(f"selftest/{seed}/{c.key}".encode()).digest())[:num_clips]


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
            for key, verdict in zip(present, _judge_all([signals[k] for k in present], held_out, config), strict=True):
                flagged[kind][key] = verdict is None or verdict.low_quality
    num_words = {clip.key: len(clip.words) for clip in tested}
    return calibration, selftest.summarise(flagged, num_words, config.selftest.min_words)


def _judge_all(
    signals: Sequence[Signals | None], calibration: Calibration, config: AuditConfig
) -> list[Verdict | None]:
    """Verdicts in order; None where nothing could be heard."""
    present = [s for s in signals if s]
    confidence = iter(calibration.confidence(present) if present else ())
    return [judge(s, float(next(confidence)), calibration, config) if s else None for s in signals]


def _row(
    u: Utterance, evidence: Evidence, calibration: Calibration, config: AuditConfig, language: str, run_dir: Path
) -> dict:
    verdict = _judge_all([evidence.signals], calibration, config)[0]
    signals = evidence.signals.to_json() if evidence.signals else dict.fromkeys(Signals.__dataclass_fields__)
    return {
        "id": u.id, "source": u.source, "recording": u.recording, "speaker": u.speaker, "domain": u.domain,
        "text": u.text, "duration_s": u.duration_s, "audio": asdict(u.audio.from_folder(run_dir)), "flags": u.flags,
        "failure": evidence.failure,
        "is_low_quality": verdict.low_quality if verdict else True,
        "suspect": verdict.suspect if verdict else None,
        "reasons": list(verdict.reasons) if verdict else [evidence.detail],
        "coverage": verdict.coverage if verdict else None,
        "confidence": round(verdict.confidence, 5) if verdict else None,
        "length_mismatch": verdict.length_mismatch if verdict else None,
        "hypothesis": evidence.hypothesis,
        "words": list(get_language(language).to_words(u.text).tokens) if evidence.signals else [],
        "starts_s": list(evidence.starts_s), "ends_s": list(evidence.ends_s),
        **{name: value for name, value in signals.items() if name != "coverage"},
    }  # fmt: skip


def _unreadable_row(line: LedgerLine) -> dict:
    """A row of the data that never became an utterance."""
    return {
        "id": line.id, "source": line.source, "domain": UNREADABLE, "text": "", "duration_s": line.duration_s or 0.0,
        "failure": line.rule, "is_low_quality": True, "reasons": [line.detail], "hypothesis": "", "words": [],
        "starts_s": [], "ends_s": [],
    }  # fmt: skip


_AUDIO = pa.struct(
    [
        ("path", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)
_TYPES = {
    "num_words": pa.int64(), "num_letters": pa.int64(), "audio": _AUDIO, "is_low_quality": pa.bool_(),
    "length_mismatch": pa.bool_(), "reasons": pa.list_(pa.string()), "words": pa.list_(pa.string()),
    "starts_s": pa.list_(pa.float64()), "ends_s": pa.list_(pa.float64()), "flags": pa.list_(pa.string()),
    **dict.fromkeys(
        ("id", "source", "recording", "speaker", "domain", "text", "failure", "suspect", "hypothesis"), pa.string()
    ),
}  # fmt: skip
_COLUMNS = (
    "id", "source", "recording", "speaker", "domain", "text", "duration_s", "audio", "flags", "failure",
    "is_low_quality", "suspect", "reasons", "coverage", "confidence", "length_mismatch", "hypothesis", "words",
    "starts_s", "ends_s",
    *(name for name in Signals.__dataclass_fields__ if name != "coverage"),
)  # fmt: skip


def _write_rows(path: Path, rows: list[dict]) -> None:
    schema = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in _COLUMNS])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def _report(
    rows: list[dict], strata: dict, tallies: dict | None, calibration: Calibration, notes: list[str], population: int
) -> dict:
    scored = [row for row in rows if row.get("coverage") is not None]
    low = [row for row in rows if row["is_low_quality"]]
    coverage = np.array([row["coverage"] for row in scored])
    points = {f"p{p}": round(float(np.percentile(coverage, p)), 4) for p in (10, 25, 50, 75, 90)} if scored else {}
    domains = defaultdict(list)
    for row in rows:
        domains[row["domain"]].append(row)
    notes = [*notes, _calibration_note(calibration)]
    if any(row.get("recording") is None for row in scored):
        notes.append("Utterances without a recording key count as independent of each other.")
    failures = defaultdict(int)
    for row in rows:
        if row["failure"]:
            failures[row["failure"]] += 1
    return {
        "low_quality_percentage": round(100 * len(low) / len(rows), 2) if rows else 0.0,
        "low_quality_count": len(low),
        "total_samples": len(rows),
        "population": population,
        "num_scored": len(scored),
        "coverage_distribution": {**points, "mean": round(float(coverage.mean()), 4)} if scored else {},
        "domain_statistics": {name: _domain(members) for name, members in sorted(domains.items())},
        "failures": dict(sorted(failures.items())),
        "suspects": {
            kind: sum(row.get("suspect") == kind for row in low)
            for kind in sorted({row["suspect"] for row in low if row.get("suspect")})
        },
        "human_flags": human_flags(rows),
        "strata": strata,
        "self_test": tallies,
        "calibration": {"kind": calibration.kind, "num_clean": calibration.num_clean,
                        "num_left_out": calibration.num_left_out, "models": list(calibration.identities)},
        "notes": notes,
    }  # fmt: skip


def _calibration_note(calibration: Calibration) -> str:
    if calibration.kind != "self":
        return f"Calibrated on '{calibration.kind}': {calibration.num_clean} clean clips and copies, none of them here."
    return (
        f"Calibrated on the judged data's own clips: {calibration.num_clean} stood for clean, "
        f"{calibration.num_left_out} looked damaged and were left out."
    )


def _domain(rows: list[dict]) -> dict:
    scored = [row for row in rows if row.get("coverage") is not None]
    low = sum(row["is_low_quality"] for row in rows)
    mean = lambda name: round(float(np.mean([row[name] for row in scored])), 4) if scored else None  # noqa: E731
    return {
        "count": len(rows),
        "low_quality_count": low,
        "low_quality_percentage": round(100 * low / len(rows), 2),
        "mean_coverage": mean("coverage"),
        "median_coverage": round(float(np.median([row["coverage"] for row in scored])), 4) if scored else None,
        "mean_confidence": mean("confidence"),
        "length_mismatch_percentage": (
            round(100 * sum(row["length_mismatch"] for row in scored) / len(scored), 2) if scored else None
        ),
    }
