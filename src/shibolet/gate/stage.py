"""From the audit's files to `gate.json`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from shibolet.errors import DataError
from shibolet.gate.config import EXIT_CODES, GateConfig
from shibolet.gate.correction import Corrected, correct
from shibolet.gate.decision import decide, more_answers
from shibolet.gate.lines import level_of_look, pct, straddled, verdict_on
from shibolet.gate.report import AuditReport, CalibrationSummary
from shibolet.records.files import read_json, write_json
from shibolet.records.groups import cluster_of
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, estimate_rate

TEXT_SIDE_ONLY = (
    "Judged by the text side only: the hypotheses come from a file, so nothing shows whether damaged audio would be "
    "found; 'shibolet audit RECIPE --export-copies DIR' writes the copies that another system can be tested with."
)


def gate(report: Mapping, records: Iterable[GateRecord], config: GateConfig) -> dict:
    """The content of `gate.json`, from that of `alignment_report.json` and the verdicts on the utterances heard."""
    try:
        audit = AuditReport.model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"alignment_report.json, '{key}': {first['msg']}; run 'shibolet audit' again") from error
    estimate = estimate_rate(records, audit.strata, level_of_look(config, audit.num_looks), config.target)
    total = estimate.total
    corrected, why = _corrected(audit, estimate)
    decision = decide(
        estimate,
        audit.self_test,
        audit.num_scored / total.num_heard,
        config,
        audit.num_looks,
        corrected=corrected,
        corrected_from=why,
        failures=audit.failures,
        texts_are_wrong=_shown_wrong(audit, config),
        text_side_only=audit.judged_by == "text side only",
    )
    accepted = decision.decision in config.accept
    notes = [estimate.of, *estimate.notes, _calibration_note(audit.calibration)]
    if audit.judged_by == "text side only":
        notes.append(TEXT_SIDE_ONLY)
    for name, num in (audit.self_test.untested if audit.self_test else {}).items():
        notes.append(f"Domain '{name}' is untested: {num} of its clips could be tested, a test of its own takes 20.")
    if config.rate == "apparent" and corrected and corrected.review:
        if straddled(pct(corrected.lower), pct(corrected.upper), config):
            notes.append(f"The corrected rate straddles a line. {more_answers(corrected.review, config)}")
    if config.rate == "corrected":
        notes.append("The verdicts by domain are on apparent rates.")
    if estimate.target == "new_recordings":
        notes.append("Rates and verdicts by domain are those of this data set.")
    return {
        **asdict(decision),
        "exit_code": EXIT_CODES[decision.decision],
        "accepted": accepted,
        "next": {
            "PROCEED": "continue",
            "CAUTION": config.on_caution,
            "STOP": config.on_stop,
            "INVALID": "continue" if accepted else "stop",
        }[decision.decision],
        "level_pct": pct(estimate.level),
        "target": estimate.target,
        "low_quality_pct": _rate_json(total),
        "sample_low_quality_pct": pct(total.sample_rate),
        "hours_low_quality_pct": None if estimate.hours_rate is None else pct(estimate.hours_rate),
        "corrected_low_quality_pct": corrected
        and {name: pct(getattr(corrected, name)) for name in ("rate", "lower", "upper")},
        "corrected_from": why,
        "judged_by": audit.judged_by,
        "num_scored": audit.num_scored,
        "failures": audit.failures,
        "strata": {
            name: {
                **_rate_json(rate),
                "decision": "INVALID"
                if decision.decision == "INVALID"
                else verdict_on(pct(rate.lower), pct(rate.upper), config),
            }
            for name, rate in estimate.strata.items()
        },
        "notes": notes,
        "config": config.model_dump(mode="json"),
    }


def _corrected(audit: AuditReport, estimate: RateEstimate) -> tuple[Corrected | None, str]:
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


def run_gate(audit_dir: Path, gate_path: Path, config: GateConfig) -> dict:
    """Read the audit's files, write `gate.json` and return its content.

    `utterances.parquet` has one row for each utterance heard; the columns `domain`, `source`, `recording` and `speaker`
    (null: not known), `is_low_quality` and `duration_s` are read.
    """
    import pyarrow.parquet

    columns = ["domain", "source", "recording", "speaker", "is_low_quality", "duration_s"]
    rows = pyarrow.parquet.read_table(audit_dir / "utterances.parquet", columns=columns).to_pylist()
    records = [
        GateRecord(
            stratum=row["domain"],
            cluster=cluster_of(row["source"], row["recording"], row["speaker"]),
            is_low_quality=row["is_low_quality"],
            duration_s=row["duration_s"],
        )
        for row in rows
    ]
    result = gate(read_json(audit_dir / "alignment_report.json"), records, config)
    write_json(gate_path, result)
    return result


def _shown_wrong(audit: AuditReport, config: GateConfig) -> bool:
    """Whether a map made elsewhere, or a person, stands behind what is flagged here."""
    reviewed = audit.review and audit.review.corrected_low_quality_pct
    return audit.calibration.kind != "self" or bool(reviewed and reviewed.lower > config.stop_above_pct)


def _rate_json(rate: Rate) -> dict:
    """Percentages and the counts behind them."""
    return {
        "rate": pct(rate.rate),
        "lower": pct(rate.lower),
        "upper": pct(rate.upper),
        "num_heard": rate.num_heard,
        "num_low_quality": rate.num_low_quality,
        "num_population": rate.num_population,
        "num_recordings": rate.num_recordings,
    }
