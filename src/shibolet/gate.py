"""The gate: from the audit's verdicts on utterances to PROCEED, CAUTION, STOP or INVALID for the data set.

Reads counts and verdicts, never audio or models. The verdict is taken on the confidence interval of the rate: data
pass, or fail, only where the sample proves it, and only if the instrument has shown that it can be believed.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shibolet.errors import EXIT_CAUTION, EXIT_INVALID, EXIT_STOP, DataError, RecipeError
from shibolet.records.config import Config
from shibolet.records.files import read_json, write_json
from shibolet.records.groups import cluster_of
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, StratumSize, clopper_pearson, estimate_rate

Decision = Literal["PROCEED", "CAUTION", "STOP", "INVALID"]
EXIT_CODES: dict[Decision, int] = {"PROCEED": 0, "CAUTION": EXIT_CAUTION, "STOP": EXIT_STOP, "INVALID": EXIT_INVALID}


class GateConfig(Config):
    """The lines of the gate, what the instrument must show before it is believed, and what `run` does on a verdict."""

    proceed_below_pct: float = Field(10.0, ge=0, le=100)  # the whole interval under this: PROCEED
    stop_above_pct: float = Field(15.0, ge=0, le=100)  # the whole interval over this: STOP
    rate: Literal["apparent", "corrected"] = "apparent"  # held against the lines: the detector's, or less its errors
    confidence_level: float = Field(0.95, gt=0, lt=1)  # of the two-sided interval
    min_scored_frac: float = Field(0.80, ge=0, le=1)  # share of the heard utterances that the instrument could score
    selftest_kinds: tuple[str, ...] = ("swapped", "silent")  # kinds of damage that must be found
    min_selftest_recall: float = Field(0.90, ge=0, le=1)  # of each of these kinds
    min_selftest_contrast: float = Field(0.10, ge=0, le=1)  # each recall less the flagged share of untouched clips
    max_harmless_changed_frac: float = Field(0.05, ge=0, le=1)  # of the verdicts on harmless copies
    on_caution: Literal["continue", "stop"] = "continue"
    on_stop: Literal["stop", "repair"] = "stop"
    accept: tuple[Literal["INVALID"], ...] = ()  # does not end the run; every later artefact says so

    @model_validator(mode="after")
    def _lines_in_order(self) -> "GateConfig":
        low, high = self.proceed_below_pct, self.stop_above_pct
        if low > high:
            raise RecipeError(f"gate: proceed_below_pct {low:g} is over stop_above_pct {high:g}; swap them")
        return self


class _Part(BaseModel):
    """What the gate reads of `alignment_report.json`; the report has other keys for other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Tally(_Part):
    """`hits` of `total` trials."""

    hits: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def frac(self) -> float:
        return self.hits / self.total


class SelfTestSummary(_Part):
    """What the instrument said to damaged, harmless and untouched copies of the judged clips."""

    damaged: dict[str, Tally]  # kind of damage -> flagged copies
    harmless: Tally  # harmless copies (gain, speed) with another verdict than their original
    untouched: Tally  # originals that were flagged


class ErrorRates(_Part):
    """The detector's, measured on data that are not being judged (a calibration file, a person's review)."""

    sensitivity: float = Field(ge=0, le=1)
    specificity: float = Field(ge=0, le=1)
    measured_on: str


class Interval(_Part):
    """A rate and its interval, in percent."""

    rate: float
    lower: float
    upper: float


class ReviewSummary(_Part):
    """What a person's verdicts come to."""

    num_counted: int = Field(ge=0)  # in the random draw
    corrected_low_quality_pct: Interval | None  # None: too few answers


class CalibrationSummary(_Part):
    """What the confidence map was made of."""

    kind: str  # "self", or the name of clean data
    num_clean: int
    num_left_out: int


class AuditReport(_Part):
    """The part of `alignment_report.json` that the gate reads."""

    strata: dict[str, StratumSize]  # of the population, before anything was drawn or filtered
    num_scored: int = Field(ge=0)  # heard utterances that the instrument could score
    failures: dict[str, int]  # why the others could not be scored -> how many
    calibration: CalibrationSummary
    self_test: SelfTestSummary | None = None  # None: it did not run, which is INVALID
    detector: ErrorRates | None = None  # None: not known
    review: ReviewSummary | None = None
    num_looks: int = Field(
        1, ge=1
    )  # verdicts that were taken on this data, each on a larger sample than the one before


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """The rate behind the detector's errors with its interval, fractions of 1."""

    rate: float
    lower: float
    upper: float
    errors: ErrorRates | None  # taken as exact; None: from a review, whose own sampling error is in the interval


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDecision:
    """The verdict and its reasons, in words."""

    decision: Decision
    recommendation: str
    reasons: tuple[str, ...]  # sentences
    warnings: tuple[str, ...]  # sentences: what speaks against this decision
    straddles_pct: tuple[float, ...]  # lines of the gate inside the interval
    more_clips_needed: int | None  # about so many more would leave no line inside; None: nothing to settle
    literal_point_verdict: Decision  # the specification's: the sample's unweighted rate, without an interval


def level_of_look(config: GateConfig, look: int) -> float:
    """The level of the interval at the first, second, ... look at data of which more is heard until it is settled.

    What may go wrong is halved at each look, so that asking again does not open the gate by itself: of data of which
    exactly 10% are low quality, extended up to three times, 4% pass; at the same level each time it would be 10%.
    """
    return 1 - (1 - config.confidence_level) / 2 ** (look - 1)


def decide(
    estimate: RateEstimate,
    self_test: SelfTestSummary | None,
    scored_frac: float,
    config: GateConfig,
    num_looks: int = 1,
    *,
    corrected: Corrected | None = None,
    failures: Mapping[str, int] | None = None,
) -> GateDecision:
    """The verdict on the interval of the rate; INVALID when there is too little to judge or the instrument is deaf.

    `failures` says why utterances could not be scored. DataError when the corrected rate shall decide and is not known.
    """
    total, level, sample = estimate.total, f"{100 * estimate.level:.4g}%", _pct(estimate.total.sample_rate)
    judged: Rate | Corrected | None = total if config.rate == "apparent" else corrected
    if judged is None:
        raise DataError(
            "gate.rate: corrected, but nothing is known of the detector's errors on data that are not being judged; "
            "give audit.calibration or answers to the random draw ('audit --review FILE'), or set gate.rate: apparent"
        )
    rate, lower, upper = (_pct(x) for x in (judged.rate, judged.lower, judged.upper))
    unscored, deaf = _scoring_faults(scored_frac, failures or {}, config), _instrument_faults(self_test, config)
    faults = [*unscored, *deaf]
    decision: Decision = "INVALID" if faults else _verdict(lower, upper, config)
    straddles = () if faults else _straddled(lower, upper, config)
    is_reviewed = isinstance(judged, Corrected) and judged.errors is None
    more = None
    if straddles and not is_reviewed:
        errors = judged.errors if isinstance(judged, Corrected) else None
        more = clips_to_settle(total, level_of_look(config, num_looks + 1), config, errors)

    extent = "all were heard" if total.is_whole and lower == upper else f"{level} interval {lower:.1f} to {upper:.1f}%"
    if straddles:
        place = f"which straddles the line of {' and that of '.join(f'{line:g}%' for line in straddles)}"
    else:
        place = {
            "PROCEED": f"under the line of {config.proceed_below_pct:g}%",
            "CAUTION": f"between the lines of {config.proceed_below_pct:g} and {config.stop_above_pct:g}%",
            "STOP": f"over the line of {config.stop_above_pct:g}%",
        }.get(decision, "")
    how = "low quality" if config.rate == "apparent" else "low quality, corrected for the detector's errors"
    reasons = faults or [f"{rate:.1f}% of the utterances are {how} ({extent}), {place}."]
    if more is not None:
        reasons.append(
            f"Hearing about {more:,} more utterances would settle it if the rate stays what it is ('audit --extend')."
        )
    elif straddles and is_reviewed:
        reasons.append("More answers in the random draw would narrow it ('audit --review FILE').")
    advice = {
        "PROCEED": "Proceed to training.",
        "CAUTION": "Proceed with monitoring: leave flagged utterances out and watch the dev error rate by domain.",
        "STOP": "Do not train on this data yet: filter or resegment it first.",
        "INVALID": "No verdict: "
        + " and ".join(
            ["too little of the data could be scored"] * bool(unscored)
            + ["the instrument cannot be believed on this data"] * bool(deaf)
        )
        + ".",
    }[decision]
    return GateDecision(
        decision=decision,
        recommendation=" ".join([advice, *reasons]),
        reasons=tuple(reasons),
        warnings=() if faults else _warnings(decision, total, corrected, config),
        straddles_pct=straddles,
        more_clips_needed=more,
        literal_point_verdict=_verdict(sample, sample, config),
    )


def _verdict(lower_pct: float, upper_pct: float, config: GateConfig) -> Decision:
    if upper_pct < config.proceed_below_pct:
        return "PROCEED"
    return "STOP" if lower_pct > config.stop_above_pct else "CAUTION"


def _straddled(lower_pct: float, upper_pct: float, config: GateConfig) -> tuple[float, ...]:
    """The lines that the rate may still lie on both sides of; a rate exactly on a line is CAUTION."""
    low, high = config.proceed_below_pct, config.stop_above_pct
    is_straddled = {low: lower_pct < low <= upper_pct, high: lower_pct <= high < upper_pct}
    return tuple(line for line, straddled in is_straddled.items() if straddled)


def _warnings(decision: Decision, apparent: Rate, corrected: Corrected | None, config: GateConfig) -> tuple[str, ...]:
    """Says when the rate that did not decide would have decided otherwise."""
    if corrected is None:
        return ()
    name, other = ("corrected", corrected) if config.rate == "apparent" else ("apparent", apparent)
    rate, lower, upper = (_pct(x) for x in (other.rate, other.lower, other.upper))
    if (otherwise := _verdict(lower, upper, config)) == decision:
        return ()
    return (
        f"By the {name} rate, {rate:.1f}% ({lower:.1f} to {upper:.1f}%), it would be {otherwise}: "
        f"the {config.rate} rate decides (gate.rate).",
    )


def _scoring_faults(scored_frac: float, failures: Mapping[str, int], config: GateConfig) -> list[str]:
    """Says when too little could be scored, and why by reason: that is the data's fault and not the instrument's."""
    if scored_frac >= config.min_scored_frac:
        return []
    counts = f": {counts_of(failures)}" if failures else ""
    return [
        f"Only {scored_frac:.1%} of the utterances heard could be scored (>= {config.min_scored_frac:.0%}){counts}."
    ]


def counts_of(failures: Mapping[str, int]) -> str:
    """Reasons with their numbers, the most frequent first: "undecodable 12, nan_samples 2"."""
    return ", ".join(f"{name} {num:,}" for name, num in sorted(failures.items(), key=lambda pair: (-pair[1], pair[0])))


def _instrument_faults(self_test: SelfTestSummary | None, config: GateConfig) -> list[str]:
    """Why the verdicts on utterances cannot be believed, in sentences; empty when they can."""
    if self_test is None:
        return ["The self-test did not run."]
    faults: list[str] = []
    harmless, untouched = self_test.harmless, self_test.untouched
    if not untouched.total or not harmless.total:
        return ["The self-test had no untouched clip or no harmless copy to judge."]
    for kind in config.selftest_kinds:
        found = self_test.damaged.get(kind, Tally(hits=0, total=0))
        if not found.total:
            faults.append(f"The self-test could make no '{kind}' copy of these clips, so it shows nothing of them.")
        elif found.frac < config.min_selftest_recall:
            faults.append(
                f"The self-test found {found.hits} of {found.total} '{kind}' clips "
                f"(>= {config.min_selftest_recall:.0%})."
            )
        elif found.frac - untouched.frac < config.min_selftest_contrast:
            faults.append(
                f"The instrument flags {found.frac:.0%} of '{kind}' and {untouched.frac:.0%} of untouched clips: "
                "it does not tell them apart."
            )
    if harmless.frac > config.max_harmless_changed_frac:
        faults.append(
            f"Harmless copies changed {harmless.hits} of {harmless.total} verdicts "
            f"(<= {config.max_harmless_changed_frac:.0%})."
        )
    return faults


def clips_to_settle(rate: Rate, level: float, config: GateConfig, errors: ErrorRates | None = None) -> int:
    """About how many more utterances leave no line of the gate inside the interval, if the rate stays what it is.

    With `errors` it is the interval of the corrected rate.

    The variance of n utterances of N goes as 1/n - 1/N: with all of them heard, every rate is settled.
    """
    heard, population = rate.num_heard, rate.num_population

    def is_settled(num: int) -> bool:
        if num == population:
            return True
        gain = (1 / heard - 1 / population) / (1 / num - 1 / population)
        ends = clopper_pearson(rate.rate, 1 + (rate.effective_n - 1) * gain, level)
        lower, upper = (_pct(corrected_rate(end, errors) if errors else end) for end in ends)
        return not _straddled(lower, upper, config)

    unsettled, settled = heard, population
    while settled - unsettled > 1:
        middle = (unsettled + settled) // 2
        unsettled, settled = (unsettled, middle) if is_settled(middle) else (middle, settled)
    more = settled - heard
    step = 10 ** max(len(str(more)) - 2, 0)  # an estimate: two digits, rounded up
    return min(math.ceil(more / step) * step, population - heard)


def corrected_rate(rate: float, errors: ErrorRates) -> float:
    """Rogan-Gladen: the true rate behind an apparent one, within 0 and 1; DataError when the detector only guesses."""
    informed = errors.sensitivity + errors.specificity - 1
    if informed <= 0:
        raise DataError(
            f"sensitivity {errors.sensitivity:g} and specificity {errors.specificity:g}, measured on "
            f"{errors.measured_on}, are no better than chance; calibrate again or leave them out"
        )
    return min(max((rate + errors.specificity - 1) / informed, 0.0), 1.0)


def gate(report: Mapping, records: Iterable[GateRecord], config: GateConfig) -> dict:
    """The content of `gate.json`, from that of `alignment_report.json` and the verdicts on the utterances heard."""
    try:
        audit = AuditReport.model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"alignment_report.json, '{key}': {first['msg']}; run 'shibolet audit' again") from error
    estimate = estimate_rate(records, audit.strata, level_of_look(config, audit.num_looks))
    total = estimate.total
    corrected, why = _corrected(audit, total)
    decision = decide(
        estimate,
        audit.self_test,
        audit.num_scored / total.num_heard,
        config,
        audit.num_looks,
        corrected=corrected,
        failures=audit.failures,
    )
    accepted = decision.decision in config.accept
    notes = [*estimate.notes, _calibration_note(audit.calibration)]
    if config.rate == "corrected":
        notes.append("The verdicts by domain are on apparent rates.")
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
        "level_pct": _pct(estimate.level),
        "low_quality_pct": _rate_json(total),
        "sample_low_quality_pct": _pct(total.sample_rate),
        "hours_low_quality_pct": None if estimate.hours_rate is None else _pct(estimate.hours_rate),
        "corrected_low_quality_pct": corrected
        and {name: _pct(getattr(corrected, name)) for name in ("rate", "lower", "upper")},
        "corrected_from": why,
        "num_scored": audit.num_scored,
        "failures": audit.failures,
        "strata": {
            name: {
                **_rate_json(rate),
                "decision": "INVALID"
                if decision.decision == "INVALID"
                else _verdict(_pct(rate.lower), _pct(rate.upper), config),
            }
            for name, rate in estimate.strata.items()
        },
        "notes": notes,
        "config": config.model_dump(mode="json"),
    }


def _corrected(audit: AuditReport, total: Rate) -> tuple[Corrected | None, str]:
    """The corrected rate, and what it is known from, or why it is not known."""
    if audit.review and (found := audit.review.corrected_low_quality_pct):
        known = Corrected(rate=found.rate / 100, lower=found.lower / 100, upper=found.upper / 100, errors=None)
        return known, f"from a person's review of {audit.review.num_counted:,} utterances drawn at random"
    if audit.detector:
        ends = {"rate": total.rate, "lower": total.lower, "upper": total.upper}
        known = {name: corrected_rate(end, audit.detector) for name, end in ends.items()}
        why = f"the detector's error rates on {audit.detector.measured_on} are taken as exact"
        return Corrected(**known, errors=audit.detector), why
    return None, "no error rates of the detector from data that are not being judged"


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


def _pct(fraction: float) -> float:
    """Percent, rounded so that a tenth is 10 and not 9.999999999999998."""
    return round(100 * fraction, 9)


def _rate_json(rate: Rate) -> dict:
    """Percentages and the counts behind them."""
    return {
        "rate": _pct(rate.rate),
        "lower": _pct(rate.lower),
        "upper": _pct(rate.upper),
        "num_heard": rate.num_heard,
        "num_low_quality": rate.num_low_quality,
        "num_population": rate.num_population,
        "num_recordings": rate.num_recordings,
        "effective_n": None if rate.is_whole else round(rate.effective_n, 1),
    }
