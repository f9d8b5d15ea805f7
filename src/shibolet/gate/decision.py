"""The verdict on the interval of a rate, and its reasons in words."""

import math
from collections.abc import Mapping, Sequence

from shibolet.errors import DataError
from shibolet.gate.correction import Corrected
from shibolet.gate.limits import LIMITS, Case
from shibolet.gate.lines import clips_to_settle, level_of_look, pct, straddled, verdict_on
from shibolet.records.documents.alignment import Review, SelfTest
from shibolet.records.documents.gate import Decision, GateDecision, GateLimits
from shibolet.scoring.rates import Rate, RateEstimate

ADVICE: dict[Decision, str] = {
    "PROCEED": "Proceed to training.",
    "CAUTION": "Proceed with monitoring: leave flagged utterances out and watch WER on dev by domain, "
    "which train/dev.jsonl, the trackers (dev_wer/...) and the page show.",
    "STOP": "Do not train on this data yet: filter or resegment it first.",
}
HELD_OPEN = (
    "That takes PROCEED away: they are {:.1f}% of the data, and if they are wrong the rate crosses the line of PROCEED."
)
HELD = (
    "By the rate corrected with a calibration file the verdict would be milder; without a person's review that rate "
    "informs and opens no gate."
)


def decide(
    estimate: RateEstimate,
    self_test: SelfTest | None,
    scored_frac: float,
    config: GateLimits,
    num_looks: int = 1,
    *,
    corrected: Corrected | None = None,
    corrected_from: str = "nothing is known of the detector's errors on data that are not being judged",
    failures: Mapping[str, int] | None = None,
    texts_are_wrong: bool = False,
    text_side_only: bool = False,
    confused_pct: float = 0.0,
    confused: str = "",
) -> GateDecision:
    """The verdict on the interval of the rate; INVALID when there is too little to judge or the instrument is deaf.

    `corrected_from` says why the corrected rate is not known, `failures` why utterances could not be scored.
    `texts_are_wrong`: a calibration file or a person's review stands behind a large share of flagged clips.
    `text_side_only`: the self-test had no copies with changed audio. `confused_pct`: utterances not flagged that
    may be wrong by a habit of whoever wrote them, as the sentence `confused` says: no PROCEED stands over so many of
    them that it would be none if they were wrong. DataError when the corrected rate shall decide and
    is not known.
    """
    judged, is_held = _judged(estimate.total, corrected, corrected_from, config)
    lower, upper, sample = pct(judged.lower), pct(judged.upper), pct(estimate.total.sample_rate)
    case = Case(
        scored_frac=scored_frac, failures=failures or {}, self_test=self_test, texts_are_wrong=texts_are_wrong,
        text_side_only=text_side_only, config=config,
    )  # fmt: skip
    broken = [(limit.cause, sentence) for limit in LIMITS for sentence in limit.broken(case)]
    by_rate = verdict_on(lower, upper, config)
    is_held_open = by_rate == "PROCEED" and bool(confused) and upper + confused_pct >= config.proceed_below_pct
    decision: Decision = "INVALID" if broken else "CAUTION" if is_held_open else by_rate
    if broken:
        straddles, more, warnings, reasons = (), None, (), [sentence for _, sentence in broken]
        advice = f"No verdict: {' and '.join(dict.fromkeys(cause for cause, _ in broken))}."
    else:
        straddles, advice = straddled(lower, upper, config), ADVICE[decision]
        more, advice_on_more = _more(estimate, judged, num_looks, config) if straddles else (None, "")
        reason = _reason(by_rate, estimate, judged, straddles, config, text_side_only=text_side_only)
        reasons = [reason, *[HELD] * is_held, *[advice_on_more] * bool(advice_on_more), *[confused] * bool(confused)]
        reasons += [HELD_OPEN.format(confused_pct)] * is_held_open
        warnings = _warnings(by_rate, estimate.total, corrected, judged, config)
    return GateDecision(
        decision=decision,
        recommendation=" ".join([advice, *reasons]),
        reasons=tuple(reasons),
        warnings=warnings,
        straddles_pct=straddles,
        more_clips_needed=more,
        literal_point_verdict=verdict_on(sample, sample, config),
    )


def _reason(
    decision: Decision,
    estimate: RateEstimate,
    judged: Rate | Corrected,
    straddles: Sequence[float],
    config: GateLimits,
    *,
    text_side_only: bool,
) -> str:
    """The rate that decides, and where its interval lies."""
    rate, lower, upper = (pct(x) for x in (judged.rate, judged.lower, judged.upper))
    is_certain = estimate.total.is_whole and lower == upper
    extent = "all were heard" if is_certain else f"{100 * estimate.level:.4g}% interval {lower:.1f} to {upper:.1f}%"
    if straddles:
        place = f"which straddles the line of {' and that of '.join(f'{line:g}%' for line in straddles)}"
    else:
        place = {
            "PROCEED": f"under the line of {config.proceed_below_pct:g}%",
            "CAUTION": f"between the lines of {config.proceed_below_pct:g} and {config.stop_above_pct:g}%",
            "STOP": f"over the line of {config.stop_above_pct:g}%",
        }[decision]
    how = "low quality, corrected for the detector's errors" if isinstance(judged, Corrected) else "low quality"
    side = "by the text side only, " if text_side_only else ""
    whose = "the utterances" if estimate.target == "data_set" else "the utterances of new recordings"
    return f"{rate:.1f}% of {whose} are {how} ({side}{extent}), {place}."


def _judged(
    total: Rate, corrected: Corrected | None, corrected_from: str, config: GateLimits
) -> tuple[Rate | Corrected, bool]:
    """The rate that decides, and whether a corrected one was held back.

    Error rates from other data are those of other recordings and other damage: they may close the gate, and open it
    only with a person's answers on these data behind them.
    """
    if config.rate == "apparent":
        return total, False
    if corrected is None:
        raise DataError(
            f"gate.rate: corrected, but that rate is not known: {corrected_from}; "
            "give audit.calibration or answers to the random draw ('audit --review FILE'), or set gate.rate: apparent"
        )
    severity = ("PROCEED", "CAUTION", "STOP")
    verdicts = [severity.index(verdict_on(pct(one.lower), pct(one.upper), config)) for one in (total, corrected)]
    is_held = corrected.errors is not None and verdicts[1] < verdicts[0]
    return (total if is_held else corrected), is_held


def _more(
    estimate: RateEstimate, judged: Rate | Corrected, num_looks: int, config: GateLimits
) -> tuple[int | None, str]:
    """About how many more clips would settle the verdict, where hearing them would, and what to do in a sentence."""
    if isinstance(judged, Corrected) and judged.review:
        return None, more_answers(judged.review, config)
    if estimate.target == "new_recordings":
        return None, "More recordings would narrow it, and more utterances of the same ones hardly."
    errors = judged.errors if isinstance(judged, Corrected) else None
    more = clips_to_settle(estimate.strata, level_of_look(config, num_looks + 1), config, errors)
    if more is None:
        return None, "Hearing more would not settle it: a larger calibration, or a person's review, would."
    return more, (f"Hearing about {more:,} more utterances has an even chance to settle it ('audit --extend').")


def answers_to_settle(review: Review, config: GateLimits) -> int | None:
    """How many more answers would leave no line of the gate inside the interval; None: more than were heard."""
    for line in review.forecast:
        if not straddled(line.lower, line.upper, config) and line.num_answers > review.num_sure > 0:
            return math.ceil((line.num_answers - review.num_sure) * review.num_counted / review.num_sure)
    return None


def more_answers(review: Review, config: GateLimits) -> str:
    """`answers_to_settle` in a sentence."""
    more = answers_to_settle(review, config)
    if more is not None:
        return f"About {more:,} more answers in the random draw would settle it ('shibolet review RUN')."
    return (
        "Answers on everything that was heard would not settle it: hear more first (gate.rate: apparent, then "
        "'audit --extend')."
    )


def _warnings(
    decision: Decision, apparent: Rate, corrected: Corrected | None, judged: Rate | Corrected, config: GateLimits
) -> tuple[str, ...]:
    """Says when the rate that did not decide would have decided otherwise."""
    if corrected is None:
        return ()
    name, other = ("apparent", apparent) if judged is corrected else ("corrected", corrected)
    rate, lower, upper = (pct(x) for x in (other.rate, other.lower, other.upper))
    if (otherwise := verdict_on(lower, upper, config)) == decision:
        return ()
    return (
        f"By the {name} rate, {rate:.1f}% ({lower:.1f} to {upper:.1f}%), it would be {otherwise}: "
        + (
            f"the {config.rate} rate decides (gate.rate)."
            if (judged is corrected) == (config.rate == "corrected")
            else "the apparent rate decides, since no person's review stands behind the corrected one."
        ),
    )
