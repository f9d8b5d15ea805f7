"""From the audit's files to `gate.json`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from shibolet.errors import DataError
from shibolet.gate.config import EXIT_CODES, GateConfig
from shibolet.gate.correction import Corrected, correct
from shibolet.gate.decision import decide, more_answers
from shibolet.gate.lines import level_of_look, pct, straddled, verdict_on
from shibolet.records.documents.alignment import AlignmentReport, CalibrationSummary
from shibolet.records.documents.gate import CountedRate, Decision, GateVerdict, Interval, StratumRate
from shibolet.records.groups import cluster_of
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, estimate_rate

TEXT_SIDE_ONLY = (
    "Judged by the text side only: the hypotheses come from a file, so nothing shows whether damaged audio would be "
    "found; 'shibolet audit RECIPE --export-copies DIR' writes the copies that another system can be tested with."
)


def gate(audit: AlignmentReport, records: Iterable[GateRecord], config: GateConfig) -> GateVerdict:
    """The verdict, from the audit's report and its verdicts on the utterances heard."""
    estimate = estimate_rate(records, audit.strata, level_of_look(config, audit.num_looks), config.target)
    corrected, why = _corrected(audit, estimate)
    decision = decide(
        estimate,
        audit.self_test,
        audit.num_scored / estimate.total.num_heard,
        config,
        audit.num_looks,
        corrected=corrected,
        corrected_from=why,
        failures=audit.failures,
        texts_are_wrong=_shown_wrong(audit, config),
        text_side_only=audit.judged_by == "text side only",
        confused_pct=pct(_confused_frac(audit, estimate)),
        confused=_confused(audit),
    )
    verdict = decision.decision
    accepted = verdict in config.accept
    then = {"PROCEED": "continue", "CAUTION": config.on_caution, "STOP": config.on_stop}
    return GateVerdict(
        **decision.model_dump(),
        exit_code=EXIT_CODES[verdict],
        accepted=accepted,
        next=then.get(verdict) or ("continue" if accepted else "stop"),
        level_pct=pct(estimate.level),
        target=estimate.target,
        low_quality_pct=CountedRate(**_in_percent(estimate.total)),
        sample_low_quality_pct=pct(estimate.total.sample_rate),
        hours_low_quality_pct=None if estimate.hours_rate is None else pct(estimate.hours_rate),
        corrected_low_quality_pct=corrected
        and Interval(**{name: pct(getattr(corrected, name)) for name in Interval.model_fields}),
        corrected_from=why,
        judged_by=audit.judged_by,
        num_scored=audit.num_scored,
        failures=audit.failures,
        strata={
            name: StratumRate(**_in_percent(rate), decision=_alone(rate, verdict, config))
            for name, rate in estimate.strata.items()
        },
        notes=tuple(_notes(audit, estimate, corrected, config)),
        config=config.limits,
    )


def _confused_frac(audit: AlignmentReport, estimate: RateEstimate) -> float:
    """Share of the data that is not flagged and holds a confusion, domains weighted by their sizes."""
    total = sum(rate.num_population for rate in estimate.strata.values())
    return sum(
        rate.num_population / total * audit.confused.get(name, 0) / rate.num_heard
        for name, rate in estimate.strata.items()
        if rate.num_heard
    )


def _confused(audit: AlignmentReport) -> str:
    """That utterances hold a word which many texts have where another is heard; empty: none do."""
    if not audit.confused:
        return ""
    first, *others = audit.confusions
    whose = f", {first.clusters:,} recordings or speakers" if first.clusters else ""
    more = f", and {len(others):,} pairs more" if others else ""
    num = sum(audit.confused.values())
    return (
        f"{num:,} of {audit.total_samples:,} utterances are not flagged and hold a word that is "
        f"steadily heard as another: '{first.text}' as '{first.heard}' {first.count:,} of {first.occurrences:,} times"
        f"{whose}{more}. Listen to some: either these texts are wrong, or both are ways to say one thing."
    )


def _alone(rate: Rate, verdict: Decision, config: GateConfig) -> Decision:
    """What a stratum would come to by itself; an instrument that cannot be believed says nothing of a part either."""
    return "INVALID" if verdict == "INVALID" else verdict_on(pct(rate.lower), pct(rate.upper), config)


def _notes(
    audit: AlignmentReport, estimate: RateEstimate, corrected: Corrected | None, config: GateConfig
) -> Iterator[str]:
    """What a reader of the verdict must know, in sentences."""
    yield from [estimate.of, *estimate.notes, _calibration_note(audit.calibration)]
    if audit.judged_by == "text side only":
        yield TEXT_SIDE_ONLY
    for name, num in (audit.self_test.untested if audit.self_test else {}).items():
        yield f"Domain '{name}' is untested: {num} of its clips could be tested, a test of its own takes 20."
    if config.rate == "apparent" and corrected and corrected.review:
        if straddled(pct(corrected.lower), pct(corrected.upper), config):
            yield f"The corrected rate straddles a line. {more_answers(corrected.review, config)}"
    if config.rate == "corrected":
        yield "The verdicts by domain are on apparent rates."
    if estimate.target == "new_recordings":
        yield "Rates and verdicts by domain are those of this data set."


def _corrected(audit: AlignmentReport, estimate: RateEstimate) -> tuple[Corrected | None, str]:
    """The corrected rate, and what it is known from, or why it is not known."""
    if audit.review and (found := audit.review.corrected_low_quality_pct):
        if estimate.target == "new_recordings":
            return None, "a person's review is of this data set and says nothing of new recordings"
        ends = {name: getattr(found, name) / 100 for name in ("rate", "lower", "upper")}
        known = Corrected(**ends, errors=None, review=audit.review)
        return known, f"from a person's review of {audit.review.num_counted:,} utterances drawn at random"
    if not (errors := audit.detector):
        return None, "no error rates of the detector from data that are not being judged"
    try:
        corrected = correct(estimate.total, errors, estimate.level)
    except DataError as error:
        return None, str(error)
    if corrected is None:
        few = "fewer" if estimate.total.rate < 1 - errors.specificity else "more"
        return None, (
            f"{few} utterances are flagged than the detector's error rates on {errors.measured_on} allow, so these are "
            "not its error rates on these data"
        )
    return corrected, f"the detector's error rates on {errors.measured_on}"


def _calibration_note(calibration: CalibrationSummary) -> str:
    if calibration.kind != "self":
        return f"Calibrated on '{calibration.kind}': {calibration.num_clean:,} clean clips and copies, none from here."
    return (
        f"Calibration: self. {calibration.num_clean:,} of the judged clips stood for clean, "
        f"{calibration.num_left_out:,} looked damaged and were left out; 'shibolet calibrate' on clean clips is better."
    )


def run_gate(audit_dir: Path, gate_path: Path, config: GateConfig) -> GateVerdict:
    """Read the audit's files, write `gate.json` and return it."""
    report = AlignmentReport.read(audit_dir / "alignment_report.json")
    verdict = gate(report, records_of(audit_dir / "utterances.parquet"), config)
    verdict.write(gate_path)
    return verdict


def records_of(table: Path) -> Iterator[GateRecord]:
    """What the gate counts: a record for each row of an audit's table."""
    from shibolet.records.audited import read_audited  # pyarrow is slow to import

    for row in read_audited(table, short=True):
        yield GateRecord(
            stratum=row.domain,
            cluster=cluster_of(row.source, row.recording, row.speaker),
            is_low_quality=row.is_low_quality,
            duration_s=row.duration_s,
        )


def _shown_wrong(audit: AlignmentReport, config: GateConfig) -> bool:
    """Whether a map made elsewhere, or a person, stands behind what is flagged here."""
    reviewed = audit.review and audit.review.corrected_low_quality_pct
    return audit.calibration.kind != "self" or bool(reviewed and reviewed.lower > config.stop_above_pct)


def _in_percent(rate: Rate) -> dict[str, float]:
    """The fields of `CountedRate`."""
    shares = {name: pct(getattr(rate, name)) for name in Interval.model_fields}
    return {name: getattr(rate, name) for name in CountedRate.model_fields} | shares
