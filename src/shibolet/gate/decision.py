"""The verdict on the interval of a rate, its reasons in words, and how much more would settle it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shibolet.errors import DataError
from shibolet.gate.config import Decision, GateConfig
from shibolet.gate.instrument import instrument_faults
from shibolet.gate.report import ErrorRates, SelfTestSummary
from shibolet.scoring.rates import Rate, RateEstimate, clopper_pearson


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
    texts_are_wrong: bool = False,
    text_side_only: bool = False,
) -> GateDecision:
    """The verdict on the interval of the rate; INVALID when there is too little to judge or the instrument is deaf.

    `failures` says why utterances could not be scored. `texts_are_wrong`: a calibration file or a person's review
    stands behind a large share of flagged clips. `text_side_only`: the self-test had no copies with changed audio.
    DataError when the corrected rate shall decide and is not known.
    """
    total, level, sample = estimate.total, f"{100 * estimate.level:.4g}%", pct(estimate.total.sample_rate)
    judged: Rate | Corrected | None = total if config.rate == "apparent" else corrected
    if judged is None:
        raise DataError(
            "gate.rate: corrected, but nothing is known of the detector's errors on data that are not being judged; "
            "give audit.calibration or answers to the random draw ('audit --review FILE'), or set gate.rate: apparent"
        )
    rate, lower, upper = (pct(x) for x in (judged.rate, judged.lower, judged.upper))
    unscored = _scoring_faults(scored_frac, failures or {}, config)
    deaf = instrument_faults(self_test, config, texts_are_wrong=texts_are_wrong, text_side_only=text_side_only)
    faults = [*unscored, *deaf]
    decision: Decision = "INVALID" if faults else verdict_on(lower, upper, config)
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
    side = "by the text side only, " if text_side_only else ""
    reasons = faults or [f"{rate:.1f}% of the utterances are {how} ({side}{extent}), {place}."]
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
        literal_point_verdict=verdict_on(sample, sample, config),
    )


def verdict_on(lower_pct: float, upper_pct: float, config: GateConfig) -> Decision:
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
    rate, lower, upper = (pct(x) for x in (other.rate, other.lower, other.upper))
    if (otherwise := verdict_on(lower, upper, config)) == decision:
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
        lower, upper = (pct(corrected_rate(end, errors) if errors else end) for end in ends)
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


def pct(fraction: float) -> float:
    """Percent, rounded so that a tenth is 10 and not 9.999999999999998."""
    return round(100 * fraction, 9)
