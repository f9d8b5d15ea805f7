"""Protects the verdict: every edge of the lines, an instrument that cannot be believed, and the files in between."""

import json
import math

import numpy as np
import pytest
from audit_documents import SOUND, audited, review_of, self_test
from audit_documents import alignment_report as report

from shibolet.errors import DataError, RecipeError
from shibolet.gate.config import GateConfig
from shibolet.gate.correction import Corrected, correct, corrected_rate
from shibolet.gate.decision import decide
from shibolet.gate.limits import LIMITS, SELF_TEST_LIMITS, Case, Clips
from shibolet.gate.lines import EVEN_CHANCE, clips_to_settle, level_of_look
from shibolet.gate.stage import gate, run_gate
from shibolet.records.audited import write_audited
from shibolet.records.documents.alignment import Confusion, Tally
from shibolet.records.documents.calibration import ErrorRates
from shibolet.records.documents.gate import GateVerdict, StratumRate
from shibolet.records.files import write_json
from shibolet.scoring.rates import GateRecord, Rate, RateEstimate, StratumSize, estimate_rate, share_interval


def estimate(lower: float, rate: float, upper: float, num_low: int = 120, num_heard: int = 1000) -> RateEstimate:
    """An interval in percent, as if 1,000 of 100,000 utterances had been heard."""
    total = Rate(
        rate=rate / 100, lower=lower / 100, upper=upper / 100,
        num_heard=num_heard, num_low_quality=num_low, num_population=100_000 if lower < upper else num_heard,
        num_recordings=num_heard,
    )  # fmt: skip
    return of(total)


def of(total: Rate, level: float = 0.95) -> RateEstimate:
    return RateEstimate(
        total=total, strata={"a": total}, hours_rate=None, level=level, target="data_set", of="Of these.", notes=()
    )


@pytest.mark.parametrize(
    ("lower", "rate", "upper", "decision", "straddles"),
    [
        (7.0, 8.0, 9.99, "PROCEED", ()),
        (0.0, 0.0, 0.0, "PROCEED", ()),
        (8.0, 9.0, 10.0, "CAUTION", (10.0,)),
        (8.0, 9.9, 12.0, "CAUTION", (10.0,)),
        (9.99, 12.0, 14.99, "CAUTION", (10.0,)),
        (10.0, 12.0, 14.99, "CAUTION", ()),
        (10.0, 12.0, 15.0, "CAUTION", ()),
        (10.0, 13.0, 15.01, "CAUTION", (15.0,)),
        (9.0, 12.0, 16.0, "CAUTION", (10.0, 15.0)),
        (15.0, 17.0, 19.0, "CAUTION", (15.0,)),
        (15.01, 17.0, 19.0, "STOP", ()),
        (100.0, 100.0, 100.0, "STOP", ()),
        # heard whole: the specification's <10, 10 to 15, >15
        (9.99, 9.99, 9.99, "PROCEED", ()),
        (10.0, 10.0, 10.0, "CAUTION", ()),
        (15.0, 15.0, 15.0, "CAUTION", ()),
        (15.01, 15.01, 15.01, "STOP", ()),
    ],
)
def test_the_verdict_is_taken_on_the_interval(lower, rate, upper, decision, straddles):
    result = decide(estimate(lower, rate, upper), self_test(), 1.0, GateConfig())
    assert (result.decision, result.straddles_pct) == (decision, straddles)
    assert (result.more_clips_needed is not None) == bool(straddles)
    assert len(result.reasons) == 1 + bool(straddles) and result.recommendation.endswith(result.reasons[-1])
    for line in straddles:
        assert f"{line:g}%" in result.reasons[0]


@pytest.mark.parametrize(
    ("changes", "scored_frac", "reason"),
    [
        ({}, 0.799, "Only 79.9% of the utterances heard could be scored"),
        ({}, 0.0, "Only 0.0%"),
        ({}, math.nan, "Only nan%"),
        ({"damaged": SOUND["damaged"] | {"swapped": {"hits": 89, "total": 100}}}, 1.0, "89 of 100 'swapped'"),
        ({"damaged": SOUND["damaged"] | {"silent": {"hits": 0, "total": 0}}}, 1.0, "could make no 'silent' copy"),
        ({"damaged": {"swapped": {"hits": 99, "total": 100}}}, 1.0, "could make no 'silent' copy"),
        ({"harmless": {"hits": 11, "total": 100}}, 1.0, "changed 11 of 100 verdicts"),
        ({"harmless": {"hits": 0, "total": 0}}, 1.0, "no harmless copy"),
        ({"untouched": {"hits": 0, "total": 0}}, 1.0, "no untouched clip"),
    ],
)
def test_an_instrument_that_fails_its_self_test_gives_no_verdict(changes, scored_frac, reason):
    for at in (estimate(1, 2, 3), estimate(9, 12, 16), estimate(30, 40, 50)):
        result = decide(at, self_test(**changes), scored_frac, GateConfig())
        assert (result.decision, result.more_clips_needed, result.straddles_pct) == ("INVALID", None, ())
        assert reason in result.recommendation


def test_each_limit_is_broken_by_what_it_is_about_and_by_nothing_else():
    """One that cannot be broken is no limit."""

    def case(tested=None, scored_frac=1.0) -> Case:
        return Case(
            scored_frac=scored_frac, failures={}, self_test=tested, texts_are_wrong=False, text_side_only=False,
            config=GateConfig(),
        )  # fmt: skip

    def broken(limits, judged) -> list[str]:
        return [limit.name for limit in limits if limit.broken(judged)]

    assert [broken(LIMITS, one) for one in (case(self_test()), case(self_test(), 0.5), case())] == [
        [], ["scored"], ["self_test"],
    ]  # fmt: skip
    changes = {
        "damaged_copies": {"damaged": SOUND["damaged"] | {"swapped": {"hits": 50, "total": 100}}},
        "harmless_copies": {"harmless": {"hits": 30, "total": 100}},
        "untouched_clips": {"untouched": {"hits": 45, "total": 100}},
    }
    assert list(changes) == [limit.name for limit in SELF_TEST_LIMITS]
    for name, change in changes.items():
        tested = self_test(**change)
        overall = Clips(case=case(tested), tallies=tested, is_domain=False)
        assert broken(SELF_TEST_LIMITS, overall) == [name]


def test_the_limits_of_the_instrument_are_themselves_allowed():
    limits = self_test(
        damaged={"swapped": {"hits": 90, "total": 100}, "silent": {"hits": 9, "total": 10}},
        harmless={"hits": 8, "total": 100},  # 5% may still be true
    )
    assert decide(estimate(1, 2, 3), limits, 0.80, GateConfig()).decision == "PROCEED"
    assert decide(estimate(1, 2, 3), None, 1.0, GateConfig()).reasons == ("The self-test did not run.",)


@pytest.mark.parametrize("flagged", [0, 100])
def test_a_detector_that_flags_everything_or_nothing_is_invalid(flagged):
    tally = {"hits": flagged, "total": 100}
    deaf = self_test(damaged={"swapped": tally, "silent": tally}, untouched=tally, harmless={"hits": 0, "total": 100})
    assert decide(estimate(flagged, flagged, flagged), deaf, 1.0, GateConfig()).decision == "INVALID"


def test_a_bad_data_set_is_a_stop_and_not_an_invalid_instrument():
    bad = self_test(untouched={"hits": 40, "total": 100})
    assert decide(estimate(35, 40, 45), bad, 1.0, GateConfig()).decision == "STOP"


def test_more_than_four_in_ten_flagged_takes_somebody_who_says_that_the_texts_are_wrong():
    """Or a recogniser that does not understand the speech ends as STOP, and good data are thrown away."""
    bad = self_test(untouched={"hits": 70, "total": 100})
    alone = decide(estimate(65, 70, 75), bad, 1.0, GateConfig())
    assert alone.decision == "INVALID"
    for part in (
        "70% of the clips as they are",
        "so many texts are wrong",
        "does not understand",
        "--review",
        "calibrate",
    ):
        assert part in alone.recommendation
    assert decide(estimate(65, 70, 75), bad, 1.0, GateConfig(), texts_are_wrong=True).decision == "STOP"
    reviewed = {"num_counted": 60, "corrected_low_quality_pct": {"rate": 68.0, "lower": 55.0, "upper": 80.0}}
    assert gate(report(self_test=bad), verdicts(700), GateConfig()).decision == "INVALID"
    assert gate(report(self_test=bad, review=review_of(**reviewed)), verdicts(700), GateConfig()).decision == "STOP"
    given = {"kind": "fleurs", "num_clean": 400, "num_left_out": 0, "models": ("a", "b")}
    assert gate(report(self_test=bad, calibration=given), verdicts(700), GateConfig()).decision == "STOP"


def test_an_instrument_that_is_deaf_in_one_domain_is_invalid():
    """Pooled with a domain that it understands, it would pass."""
    fine = {"damaged": {"swapped": {"hits": 60, "total": 60}, "silent": {"hits": 60, "total": 60}},
            "harmless": {"hits": 1, "total": 180}, "untouched": {"hits": 2, "total": 60}}  # fmt: skip
    deaf = fine | {"damaged": fine["damaged"] | {"swapped": {"hits": 40, "total": 60}}}
    flags_all = fine | {"untouched": {"hits": 59, "total": 60}}
    for other, said in ((deaf, "In domain 'b': The self-test found 40 of 60"), (flags_all, "In domain 'b': The instr")):
        result = decide(estimate(1, 2, 3), self_test(domains={"a": fine, "b": other}), 1.0, GateConfig())
        assert result.decision == "INVALID" and said in result.recommendation
    assert decide(estimate(1, 2, 3), self_test(domains={"a": fine, "b": fine}), 1.0, GateConfig()).decision == "PROCEED"
    small = fine | {"damaged": {"swapped": {"hits": 18, "total": 21}, "silent": {"hits": 21, "total": 21}}}
    assert decide(estimate(1, 2, 3), self_test(domains={"a": small}), 1.0, GateConfig()).decision == "PROCEED"


def test_hypotheses_from_a_file_are_held_to_damage_on_the_text_side_and_say_so():
    tallies = {"damaged": {"swapped": {"hits": 99, "total": 100}, "text_halved": {"hits": 95, "total": 100}},
               "harmless": {"hits": 0, "total": 0}, "untouched": {"hits": 5, "total": 100}}  # fmt: skip
    given = report(self_test=self_test(**tallies), judged_by="text side only")
    found = gate(given, verdicts(30), GateConfig())
    assert found.decision == "PROCEED" and found.judged_by == "text side only"
    assert "by the text side only" in found.recommendation and any("--export-copies" in n for n in found.notes)
    half = tallies | {"damaged": tallies["damaged"] | {"text_halved": {"hits": 80, "total": 100}}}
    assert (
        gate(given.model_copy(update={"self_test": self_test(**half)}), verdicts(30), GateConfig()).decision
        == "INVALID"
    )


def test_the_literal_verdict_reads_the_unweighted_sample():
    result = decide(estimate(8.0, 8.7, 9.4, num_low=144), self_test(), 1.0, GateConfig())
    assert (result.decision, result.literal_point_verdict) == ("PROCEED", "CAUTION")
    for num_low, verdict in [(99, "PROCEED"), (100, "CAUTION"), (150, "CAUTION"), (151, "STOP")]:
        assert decide(estimate(8, 9, 11, num_low), None, 1.0, GateConfig()).literal_point_verdict == verdict


def test_a_tenth_is_on_the_line_and_not_under_it():
    """Floating point: 0.15 * 21 / 150 + 0.85 * 79 / 850 is 0.09999999999999998."""
    heard = [
        GateRecord(stratum=name, cluster=None, is_low_quality=i < low, duration_s=5)
        for name, low, total in (("a", 1, 150), ("b", 99, 850))
        for i in range(total)
    ]
    population = {"a": StratumSize(num_utterances=150, hours=1), "b": StratumSize(num_utterances=850, hours=1)}
    found = estimate_rate(heard, population)
    assert found.total.rate < 0.1
    assert decide(found, self_test(), 1.0, GateConfig()).decision == "CAUTION"


@pytest.mark.parametrize(("num_low", "line"), [(85, 10.0), (90, 10.0), (110, 10.0), (140, 15.0), (160, 15.0)])
def test_what_is_asked_for_is_a_share_of_what_would_settle_the_verdict(num_low, line):
    def at(num_heard: int, look: int = 1) -> RateEstimate:
        low = round(num_heard * num_low / 1000)
        heard = [GateRecord(stratum="a", cluster=None, is_low_quality=i < low, duration_s=5) for i in range(num_heard)]
        level = level_of_look(GateConfig(), look)
        return estimate_rate(heard, {"a": StratumSize(num_utterances=20_000, hours=30)}, level)

    before = decide(at(1000), self_test(), 1.0, GateConfig())
    assert before.straddles_pct == (line,)
    after = [at(1000 + int(share * before.more_clips_needed / EVEN_CHANCE), look=2) for share in (1.06, 0.85)]
    assert decide(after[0], self_test(), 1.0, GateConfig(), 2).straddles_pct == ()
    assert decide(after[1], self_test(), 1.0, GateConfig(), 2).straddles_pct


@pytest.mark.slow("gate", seconds=15)
def test_hearing_more_until_the_answer_pleases_does_not_open_the_gate():
    """Data on the line, extended up to three times while it is CAUTION: at one level for all looks 10% pass."""
    rng, config, size, num_bad, num_runs = np.random.default_rng(0), GateConfig(), 45_000, 4_500, 1000

    def found(num_low: int, num_heard: int, look: int) -> RateEstimate:
        level = level_of_look(config, look)
        lower, upper = share_interval(num_low, num_heard, size, level)
        return of(
            Rate(
                rate=num_low / num_heard, lower=lower, upper=upper, num_heard=num_heard, num_low_quality=num_low,
                num_population=size, num_recordings=num_heard,
            ), level,
        )  # fmt: skip

    passed = 0
    for _ in range(num_runs):
        heard, low = 300, int(rng.hypergeometric(num_bad, size - num_bad, 300))
        verdict = decide(found(low, heard, 1), self_test(), 1.0, config, 1)
        for look in range(2, 5):
            if more := verdict.more_clips_needed:
                low += int(rng.hypergeometric(num_bad - low, size - heard - num_bad + low, more))
                heard += more
                verdict = decide(found(low, heard, look), self_test(), 1.0, config, look)
        passed += verdict.decision == "PROCEED"
    assert 0.01 < passed / num_runs < 0.06


def test_a_rate_on_a_line_is_settled_only_by_hearing_everything():
    on_the_line = {"a": estimate(8.2, 10.0, 12.0, num_low=100).total}
    assert clips_to_settle(on_the_line, 0.95, GateConfig()) == 99_000


def test_more_clips_are_asked_for_in_proportion():
    """A first look at 40/40/20 leaves the large stratum thin; what comes next goes there."""
    strata = estimate_rate(
        [GateRecord(stratum=n, cluster=None, is_low_quality=i < k, duration_s=5)
         for n, k, m in (("a", 60, 120), ("b", 8, 120), ("c", 12, 60)) for i in range(m)],
        {n: StratumSize(num_utterances=s, hours=1) for n, s in (("a", 600), ("b", 54_000), ("c", 5_400))},
    ).strata  # fmt: skip
    more = clips_to_settle(strata, 0.975, GateConfig())
    assert 500 < more < 5000, "by the shares of the first look it would be two and a half times as many"


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity", "true"),
    [(0.0925, 0.90, 0.95, 0.05), (0.05, 1.0, 1.0, 0.05), (0.02, 0.9, 0.95, 0.0), (0.95, 0.9, 0.95, 1.0)],
)
def test_corrected_rate(rate, sensitivity, specificity, true):
    errors = errors_of(sensitivity, specificity)
    assert corrected_rate(rate, errors) == pytest.approx(true)


def test_error_rates_that_are_not_those_of_these_data_give_no_rate():
    """None of 300 flagged where the file says that 5% of the good are: no true rate explains that."""
    made = report(detector=ERRORS | {"specificity": 0.95, "num_clean": 5000})
    found = gate(made, verdicts(0), GateConfig())
    assert found.corrected_low_quality_pct is None and found.decision == "PROCEED"
    assert "fewer utterances are flagged than the detector's error rates on FLEURS allow" in found.corrected_from
    with pytest.raises(DataError, match="fewer utterances are flagged"):
        gate(made, verdicts(0), GateConfig(rate="corrected"))
    useless = report(detector=ERRORS | {"sensitivity": 0.3, "specificity": 0.6})
    assert "no better than chance" in gate(useless, verdicts(10), GateConfig()).corrected_from


def test_a_review_of_these_data_says_nothing_of_new_recordings():
    found = gate(report(review=review_of(**ANSWERED)), verdicts(10), GateConfig(target="new_recordings"))
    assert found.corrected_low_quality_pct is None and "says nothing of new recordings" in found.corrected_from
    assert found.target == "new_recordings" and any("those of this data set" in note for note in found.notes)


def test_a_guessing_detector_corrects_nothing():
    with pytest.raises(DataError, match="no better than chance"):
        corrected_rate(0.1, errors_of(0.3, 0.7))


def errors_of(sensitivity: float, specificity: float, num: int = 200) -> ErrorRates:
    return ErrorRates(
        sensitivity=sensitivity, specificity=specificity, num_damaged=num, num_clean=num, measured_on="a clean half"
    )


def test_the_uncertainty_of_error_rates_enters_the_corrected_rate():
    """Of the same apparent rate: what a hundred calibration clips say is wide, what a million say is the data's own."""
    apparent = estimate(10.0, 12.0, 14.0).total
    wide, narrow = (correct(apparent, errors_of(0.9, 0.92, num), 0.95) for num in (100, 1_000_000))
    assert wide.rate == narrow.rate == pytest.approx(0.04 / 0.82)
    assert (narrow.lower, narrow.upper) == pytest.approx((0.02 / 0.82, 0.06 / 0.82), abs=1e-3)
    assert wide.lower == 0.0 and wide.upper > 0.08


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity", "num"), [(0.10, 0.74, 0.95, 100), (0.15, 0.9, 0.9, 300)]
)
def test_the_interval_of_the_corrected_rate_covers_the_truth(truth, sensitivity, specificity, num):
    """With error rates that are taken as exact it covers 47 to 87%."""
    rng, hits, runs, heard = np.random.default_rng(2), 0, 400, 1000
    for _ in range(runs):
        errors = errors_of(rng.binomial(num, sensitivity) / num, rng.binomial(num, specificity) / num, num)
        low = int(rng.binomial(heard, truth * sensitivity + (1 - truth) * (1 - specificity)))
        lower, upper = share_interval(low, heard, 10**8, 0.95)
        rate = Rate(rate=low / heard, lower=lower, upper=upper, num_heard=heard, num_low_quality=low,
                    num_population=10**8, num_recordings=heard)  # fmt: skip
        found = correct(rate, errors, 0.95)
        hits += found.lower <= truth <= found.upper
    assert hits / runs >= 0.92


def verdicts(low: int, total: int = 500) -> list[GateRecord]:
    return [
        GateRecord(stratum="kan_clean", cluster=f"r{i}", is_low_quality=i < low, duration_s=5) for i in range(total)
    ]


@pytest.mark.parametrize(
    ("low", "settings", "decision", "exit_code", "then"),
    [
        (10, {}, "PROCEED", 0, "continue"),
        (60, {}, "CAUTION", 10, "continue"),
        (60, {"on_caution": "stop"}, "CAUTION", 10, "stop"),
        (200, {}, "STOP", 20, "stop"),
        (200, {"on_stop": "repair"}, "STOP", 20, "repair"),
    ],
)
def test_gate_json(low, settings, decision, exit_code, then):
    result = gate(report(), verdicts(low), GateConfig(**settings))
    assert (result.decision, result.exit_code, result.next) == (decision, exit_code, then)
    found = result.low_quality_pct
    assert found.rate == pytest.approx(low / 5)
    assert found.lower < found.rate < found.upper
    assert result.strata["kan_clean"] == StratumRate(**found.model_dump(), decision=decision)
    assert result.corrected_low_quality_pct is None and "no error rates" in result.corrected_from
    assert result.notes[-1].startswith("Calibration: self. 181 of the judged clips stood for clean")
    json.dumps(result.to_json(), allow_nan=False)


def test_an_accepted_invalid_goes_on_and_says_so():
    deaf = report(self_test=None)
    refused = gate(deaf, verdicts(10), GateConfig())
    assert (refused.exit_code, refused.accepted, refused.next) == (30, False, "stop")
    accepted = gate(deaf, verdicts(10), GateConfig(accept=("INVALID",)))
    assert (accepted.decision, accepted.exit_code) == ("INVALID", 30)
    assert (accepted.accepted, accepted.next) == (True, "continue")
    assert not gate(report(), verdicts(10), GateConfig(accept=("INVALID",))).accepted


def test_the_corrected_rate_needs_error_rates_from_other_data():
    errors = ERRORS | {"specificity": 0.95}
    result = gate(report(detector=errors), verdicts(50), GateConfig())
    assert result.corrected_low_quality_pct.rate == pytest.approx(100 * (0.10 - 0.05) / 0.85)
    assert "FLEURS" in result.corrected_from


# The detector flags 12% where 5% are bad: two verdicts, of which the recipe chooses one.
ERRORS = {"sensitivity": 0.9, "specificity": 0.92, "num_damaged": 5000, "num_clean": 5000, "measured_on": "FLEURS"}
ANSWERED = {"num_counted": 90, "corrected_low_quality_pct": {"rate": 4.8, "lower": 1.9, "upper": 9.1}}


STRATA = {"kan_clean": {"num_utterances": 50_000, "hours": 80.0}}


def test_the_recipe_chooses_the_rate_and_the_other_one_warns():
    made = report(strata=STRATA, num_scored=2500, review=review_of(**ANSWERED))
    by_rate = {rate: gate(made, verdicts(300, 2500), GateConfig(rate=rate)) for rate in ("apparent", "corrected")}
    assert {rate: result.decision for rate, result in by_rate.items()} == {
        "apparent": "CAUTION", "corrected": "PROCEED",
    }  # fmt: skip
    assert by_rate["apparent"].corrected_low_quality_pct == by_rate["corrected"].corrected_low_quality_pct
    assert by_rate["apparent"].warnings[0].startswith("By the corrected rate, 4.")
    assert by_rate["apparent"].warnings[0].endswith("it would be PROCEED: the apparent rate decides (gate.rate).")
    assert by_rate["corrected"].warnings[0].startswith("By the apparent rate, 12.0% (")
    assert "corrected for the detector's errors" in by_rate["corrected"].recommendation
    assert "review of 90" in by_rate["corrected"].corrected_from
    agreed = gate(made, verdicts(200, 2500), GateConfig())
    assert (agreed.decision, agreed.warnings) == ("PROCEED", ())


def test_error_rates_of_other_data_inform_and_open_no_gate():
    made = report(strata=STRATA, num_scored=2500, detector=ERRORS)
    held = gate(made, verdicts(300, 2500), GateConfig(rate="corrected"))
    assert held.decision == "CAUTION" and held.corrected_low_quality_pct.upper < 10
    assert "without a person's review that rate informs and opens no gate" in held.recommendation
    assert "it would be PROCEED: the apparent rate decides, since no person's review" in held.warnings[0]
    blind = report(strata=STRATA, num_scored=2500, detector=ERRORS | {"sensitivity": 0.5, "specificity": 0.999})
    closed = gate(blind, verdicts(200, 2500), GateConfig(rate="corrected"))
    assert closed.decision == "CAUTION" and "corrected for the detector's errors" in closed.recommendation
    assert gate(blind, verdicts(200, 2500), GateConfig()).decision == "PROCEED"


def test_a_reviews_own_interval_is_the_corrected_one_and_more_clips_would_not_settle_it():
    """The person heard a sample too: sensitivity and specificity taken as exact would hide that."""
    wide = {"num_counted": 60, "num_sure": 60, "corrected_low_quality_pct": {"rate": 6.0, "lower": 1.0, "upper": 14.0}}
    result = gate(report(review=review_of(**wide), detector=ERRORS), verdicts(50), GateConfig(rate="corrected"))
    assert result.corrected_low_quality_pct.model_dump() == pytest.approx({"rate": 6.0, "lower": 1.0, "upper": 14.0})
    assert (result.decision, result.straddles_pct, result.more_clips_needed) == ("CAUTION", (10.0,), None)
    assert "Answers on everything that was heard would not settle it" in result.recommendation
    lines = [{"num_answers": num, "lower": low, "upper": high} for num, low, high in ((120, 2, 11), (240, 3, 9.5))]
    result = gate(report(review=review_of(**wide, forecast=lines)), verdicts(50), GateConfig(rate="corrected"))
    assert "About 180 more answers in the random draw would settle it" in result.recommendation
    unsure = wide | {"forecast": lines, "num_counted": 90}  # a third of the answers say nothing, and will again
    result = gate(report(review=review_of(**unsure)), verdicts(50), GateConfig(rate="corrected"))
    assert "About 270 more answers" in result.recommendation
    beside = gate(report(review=review_of(**wide, forecast=lines)), verdicts(10), GateConfig())
    assert beside.decision == "PROCEED"
    assert any("corrected rate straddles a line. About 180 more answers" in note for note in beside.notes)
    assert beside.notes[0] == "The rate is that of these 5,000 utterances, of which 500 were heard."


def test_what_is_asked_for_is_a_share_of_what_would_settle_a_corrected_verdict():
    errors, config = errors_of(0.9, 0.95, 100_000), GateConfig(rate="corrected")
    population = {"a": StratumSize(num_utterances=60_000, hours=1)}

    def at(num_heard: int, look: int):
        heard = [GateRecord(stratum="a", cluster=None, is_low_quality=i < 0.15 * num_heard, duration_s=5)
                 for i in range(num_heard)]  # fmt: skip
        found = estimate_rate(heard, population, level_of_look(config, look))
        return decide(found, self_test(), 1.0, config, look, corrected=correct(found.total, errors, found.level))

    before = at(900, 1)
    assert 10.0 in before.straddles_pct
    assert at(900 + int(1.06 * before.more_clips_needed / EVEN_CHANCE), 2).straddles_pct == ()
    assert at(900 + int(0.85 * before.more_clips_needed / EVEN_CHANCE), 2).straddles_pct
    few = errors_of(0.9, 0.95, 30)
    known = correct(estimate(13, 15, 17).total, few, 0.95)
    never = decide(estimate(13, 15, 17), self_test(), 1.0, config, corrected=known)
    assert never.more_clips_needed is None and "a larger calibration" in never.recommendation


def test_a_corrected_rate_that_is_not_known_is_an_error_and_no_verdict():
    unanswered = {"num_counted": 3, "corrected_low_quality_pct": None}
    with pytest.raises(DataError, match=r"gate\.rate: corrected, but that rate is not known: no error rates"):
        gate(report(review=review_of(**unanswered)), verdicts(10), GateConfig(rate="corrected"))


def test_broken_files_are_not_laid_to_the_instrument():
    """A person who reads 'the instrument' changes the model and not the files."""
    failures = {"nan_samples": 40, "undecodable": 90}
    result = gate(report(num_scored=370, failures=failures), verdicts(140), GateConfig())
    assert result.decision == "INVALID"
    assert result.recommendation == (
        "No verdict: too little of the data could be scored. "
        "Only 74.0% of the utterances heard could be scored (>= 80%): undecodable 90, nan_samples 40."
    )
    assert result.failures == failures and result.num_scored == 370
    both = gate(report(num_scored=370, failures=failures, self_test=None), verdicts(140), GateConfig())
    assert "could be scored and the instrument cannot be believed" in both.recommendation
    deaf = gate(report(self_test=None), verdicts(140), GateConfig()).recommendation
    assert deaf == "No verdict: the instrument cannot be believed on this data. The self-test did not run."


@pytest.mark.parametrize(
    ("low", "num_confused", "decision"),
    [(10, 0, "PROCEED"), (10, 20, "PROCEED"), (10, 60, "CAUTION"), (100, 60, "STOP"), (60, 3, "CAUTION")],
)
def test_a_habit_in_the_texts_that_would_cross_the_line_takes_the_proceed_away(low, num_confused, decision):
    """One frequent word written for another is under the line clip by clip, whoever listens."""
    confused = {"text": "one", "heard": "two", "count": 37, "occurrences": 120, "clusters": 18}
    audit = report(total_samples=500).model_copy(
        update={
            "confused": {"kan_clean": num_confused} if num_confused else {},
            "confusions": (Confusion(**confused),) * bool(num_confused),
        }
    )
    verdict = gate(audit, verdicts(low), GateConfig())
    assert verdict.decision == decision
    told = [reason for reason in verdict.reasons if "'one' as 'two' 37 of 120 times, 18 recordings" in reason]
    assert len(told) == bool(num_confused) and not verdict.warnings
    assert (low < 50 and decision == "CAUTION") == any("takes PROCEED away" in reason for reason in verdict.reasons)


def test_a_habit_counts_by_the_size_of_its_domain():
    """Of a large domain with a small sample a few clips are much of the data."""
    records = [
        GateRecord(stratum=name, cluster=f"{name}{i}", is_low_quality=False, duration_s=5)
        for name, num in (("large", 50), ("small", 950))
        for i in range(num)
    ]
    strata = {"large": {"num_utterances": 95_000, "hours": 80.0}, "small": {"num_utterances": 5_000, "hours": 4.0}}
    pair = (Confusion(text="one", heard="two", count=40, occurrences=90, clusters=9),)

    def decision(**confused: int) -> str:
        audit = report(total_samples=1000, num_scored=1000, population=100_000, strata=strata)
        return gate(audit.model_copy(update={"confused": confused, "confusions": pair}), records, GateConfig()).decision

    assert decision(small=40) == "PROCEED" and decision(large=40) == "CAUTION"


@pytest.mark.parametrize(("recording", "speakers", "num_recordings"), [("same", 4, 1), (None, 4, 4), (None, None, 500)])
def test_run_gate_reads_the_audit_and_writes_the_verdict(tmp_path, recording, speakers, num_recordings):
    rows = [
        audited(
            f"u{i:03d}", domain="kan_clean", recording=recording, speaker=speakers and f"voice {i % speakers}",
            is_low_quality=i < 10,
        )
        for i in range(500)
    ]  # fmt: skip
    write_audited(tmp_path / "utterances.parquet", rows)
    report().write(tmp_path / "alignment_report.json")
    result = run_gate(tmp_path, tmp_path / "gate.json", GateConfig())
    assert GateVerdict.read(tmp_path / "gate.json") == result
    assert result.low_quality_pct.num_recordings == num_recordings


@pytest.mark.parametrize(("change", "said"), [({}, "a version that did not say so"), ({"format": 99}, "version 99")])
def test_a_report_of_another_version_is_told_in_a_sentence(tmp_path, change, said):
    """A traceback from the middle of it would be taken for a defect."""
    content = report().to_json()
    del content["format"]
    write_json(tmp_path / "alignment_report.json", content | change)
    with pytest.raises(DataError, match=f"was written as {said} .*'shibolet audit RECIPE' makes it anew"):
        run_gate(tmp_path, tmp_path / "gate.json", GateConfig())


def test_a_corrected_rate_of_nothing_is_still_of_a_sample():
    """Rogan and Gladen's formula takes both ends of a low rate to 0."""
    rates = errors_of(0.9, 0.9)
    corrected = Corrected(rate=0.0, lower=0.0, upper=0.0, errors=rates)
    decision = decide(estimate(1.0, 2.0, 4.0), self_test(), 1.0, GateConfig(rate="corrected"), corrected=corrected)
    assert "all were heard" not in decision.recommendation and "interval 0.0 to 0.0%" in decision.recommendation


def test_lines_in_the_wrong_order_are_refused():
    with pytest.raises(RecipeError, match="swap"):
        GateConfig(proceed_below_pct=20)


def test_tally_counts_first():
    assert Tally(hits=9, total=10).frac == 0.9
