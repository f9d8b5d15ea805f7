"""The confidence map: where its line lies, what stands for good, and what it does with signals that are not there."""

from dataclasses import replace

import numpy as np
import pytest

from shibolet.audit.calibration import EVIDENCE, GOOD_FAILURES, Good, confidence, fit
from shibolet.audit.config import AuditConfig
from shibolet.audit.signals import Signals
from shibolet.audit.verdict import judge
from shibolet.records.documents.calibration import Calibration

RIGHT = Signals(
    num_words=8, num_letters=32, speech_s=3.0, text_logp=-0.3, text_score=-0.1, worst_score=-1.5, cer=0.05,
    edge_cer=0.1, length_ratio=1.0, words_heard=0.95, coverage=1.0, letters_per_s=11.0, snr_db=30.0,
    bandwidth_hz=8000.0,
)  # fmt: skip
IDENTITIES = ("ears",)


def signals(rng: np.random.Generator, wrong: float, snr_db: float = 30.0, **known) -> Signals:
    """Of a clip whose text is `wrong` from 0 to 1, spread as speech spreads it."""
    away = float(np.clip(wrong + 0.08 * rng.standard_normal(), 0, 1))
    spread = replace(
        RIGHT, text_logp=-0.3 - 4 * away, text_score=-0.1 - 3 * away, worst_score=-1.5 - 6 * away, cer=away,
        edge_cer=away, words_heard=1 - away, letters_per_s=float(rng.uniform(9, 13)),
        snr_db=float(snr_db + rng.standard_normal()),
    )  # fmt: skip
    return replace(spread, **known)


def many(num: int, wrong: float, seed: int, **known) -> list[Signals]:
    rng = np.random.default_rng(seed)
    return [signals(rng, wrong, **known) for _ in range(num)]


def good(own: list[Signals], is_untouched: bool = True) -> list[Good]:
    return [Good(signals=s, clip=str(i), is_untouched=is_untouched) for i, s in enumerate(own)]


CLEAN, DAMAGED = good(many(200, 0.1, 0)), many(400, 0.8, 1)


def test_the_line_lies_where_one_in_twenty_of_the_good_fails_at_most() -> None:
    """Good and damaged that overlap: the line must not creep up to catch more damage."""
    for wrong in (0.15, 0.2, 0.3):
        calibration = fit(CLEAN, many(400, wrong, 2), IDENTITIES, trusted=True)
        fails = np.mean(confidence(calibration, [one.signals for one in CLEAN]) < 0.5)
        assert fails == pytest.approx(GOOD_FAILURES, abs=0.005), wrong


def test_where_good_and_damaged_lie_apart_the_line_lies_between_them() -> None:
    """On the edge of the good, new clips of the same kind would fail by a breath."""
    calibration = fit(CLEAN, DAMAGED, IDENTITIES, trusted=True)
    new = many(2000, 0.1, 3)
    assert np.mean(confidence(calibration, new) < 0.5) < 0.01
    assert np.mean(confidence(calibration, many(2000, 0.8, 4)) < 0.5) > 0.99
    halfway = confidence(calibration, [replace(RIGHT, cer=c, edge_cer=c) for c in (0.05, 0.9)])
    assert halfway[0] > halfway[1]


def test_copies_in_noise_lower_the_line_for_clips_in_noise() -> None:
    """A right text behind babble is heard worse; without copies in babble every such clip is flagged."""
    rng = np.random.default_rng(5)
    copies = [Good(signals=signals(rng, 0.4, snr_db=10.0), clip=one.clip, is_untouched=False) for one in CLEAN]
    quiet, taught = (fit(own, DAMAGED, IDENTITIES, trusted=True) for own in (CLEAN, [*CLEAN, *copies]))
    noisy = many(1000, 0.4, 6, snr_db=10.0)
    before, after = (float(np.mean(confidence(one, noisy) < 0.5)) for one in (quiet, taught))
    assert after < 0.08 < before
    assert np.mean(confidence(taught, DAMAGED) < 0.5) > 0.98, "damage is found all the same"
    assert taught.num_clean == quiet.num_clean == 200, "copies are no clips"


def test_originals_that_look_damaged_leave_with_their_copies() -> None:
    """Texts that are wrong from the start, and harmless copies of them, would stand for good."""
    wrong = many(40, 0.8, 7)
    copies = good(many(200, 0.12, 8), is_untouched=False)
    bad_copies = [replace(one, clip=f"wrong {i}") for i, one in enumerate(good(many(40, 0.8, 9), is_untouched=False))]
    everything = [*CLEAN, *copies, *(Good(signals=s, clip=f"wrong {i}") for i, s in enumerate(wrong)), *bad_copies]
    found = fit(everything, DAMAGED, IDENTITIES)
    assert found.num_left_out >= 39 and found.num_clean >= 195 and found.num_clean + found.num_left_out == 240
    assert np.mean(confidence(found, wrong) < 0.5) > 0.95
    # Copies that look right do not bring a wrong original back, and leave with it.
    outvoted = [replace(one, clip=f"wrong {i % 40}") for i, one in enumerate(copies)]
    again = fit([*everything, *outvoted], DAMAGED, IDENTITIES)
    assert again.num_left_out >= 39 and np.mean(confidence(again, wrong) < 0.5) > 0.95
    trusted = fit(everything, DAMAGED, IDENTITIES, trusted=True)
    assert trusted.num_left_out == 0 and trusted.num_clean == 240
    assert np.mean(confidence(trusted, wrong) < 0.5) < 0.95


def test_many_originals_that_are_half_wrong_do_not_pass_for_good() -> None:
    """Of real clips of which 40% lacked half of their text, a fit that began with all of them left out 5 of 22 such."""
    own = good([*many(48, 0.05, 0), *many(32, 0.4, 7)])
    found = fit(own, [*many(80, 0.95, 1), *many(50, 0.5, 2)], IDENTITIES)
    assert 24 <= found.num_left_out <= 33
    assert np.mean(confidence(found, many(2000, 0.4, 8)) < 0.5) > 0.75
    assert np.mean(confidence(found, many(2000, 0.05, 9)) < 0.5) < 0.02


def test_few_clips_with_a_likelihood_may_all_be_left_out() -> None:
    """Those that are harder are the worse half; and damaged copies may all lack what they have."""
    unknown = {"text_logp": None, "text_score": None, "worst_score": None}
    easy, hard = many(970, 0.05, 0, **unknown), many(30, 0.4, 1)
    for damaged in ([*many(100, 0.9, 2, **unknown), *many(100, 0.9, 3)], many(100, 0.9, 4, **unknown)):
        found = fit(good([*easy, *hard]), damaged, IDENTITIES)
        assert found.maps[-1].evidence == ("cer", "edge_cer")
        assert np.mean(confidence(found, many(500, 0.9, 5)) < 0.5) > 0.98


def test_at_most_half_of_the_clips_is_left_out() -> None:
    """An instrument that takes everything for damaged has to fail its self-test and not to end in an error."""
    found = fit(good(many(60, 0.8, 10)), many(120, 0.8, 11), IDENTITIES)
    assert 30 <= found.num_clean <= 60 and found.num_clean + found.num_left_out == 60


def test_signals_that_nobody_gave_are_no_part_of_the_map() -> None:
    """A recogniser without likelihoods must not be judged by a number that stands for "not known"."""
    unknown = dict.fromkeys(("text_logp", "text_score", "worst_score"))
    own, damaged = many(100, 0.1, 12, **unknown), many(200, 0.8, 13, **unknown)
    found = fit(good(own), damaged, IDENTITIES)
    assert [one.evidence for one in found.maps] == [("cer", "edge_cer")] and np.isfinite(found.maps[0].weights).all()
    assert np.mean(confidence(found, own) >= 0.5) > 0.9 and np.mean(confidence(found, damaged) < 0.5) > 0.95
    assert fit(CLEAN, DAMAGED, IDENTITIES).maps[0].evidence == EVIDENCE


def test_a_clip_that_lacks_a_signal_is_judged_by_those_it_has() -> None:
    """A clip beyond what the model takes has a hypothesis and no likelihood: it is neither good nor bad for that."""
    found = fit(CLEAN, DAMAGED, IDENTITIES)
    unknown = dict.fromkeys(("text_logp", "text_score", "worst_score"))
    for wrong, is_good in ((0.1, True), (0.8, False)):
        scores = confidence(found, many(50, wrong, 14, **unknown))
        assert np.isfinite(scores).all() and np.mean((scores >= 0.5) == is_good) > 0.8
    some = [replace(one, signals=replace(one.signals, **unknown)) if i % 3 == 0 else one for i, one in enumerate(CLEAN)]
    assert np.isfinite(fit(some, DAMAGED, IDENTITIES).maps[0].weights).all()


def test_a_map_that_was_kept_says_the_same(tmp_path) -> None:
    found = fit(CLEAN, DAMAGED, IDENTITIES)
    found.write(tmp_path / "calibration.json")
    again = Calibration.read(tmp_path / "calibration.json")
    assert np.array_equal(confidence(again, DAMAGED), confidence(found, DAMAGED))


def test_the_verdict_is_the_confidence_alone() -> None:
    """Lines that nothing calibrates flagged most of good speech."""
    calibration, config = fit(CLEAN, DAMAGED, IDENTITIES), AuditConfig(recogniser="ears")
    odd = replace(RIGHT, coverage=0.1, length_ratio=2.5, letters_per_s=60.0, cer=0.6, words_heard=0.1)
    kept = judge(odd, 0.5, calibration, config)
    assert not kept.low_quality and kept.suspect is None and kept.reasons == ()
    assert kept.length_mismatch and kept.coverage == 0.1, "they are reported all the same"
    flagged = judge(odd, 0.49, calibration, config)
    assert flagged.low_quality and flagged.suspect == "wrong_text"
    for part in ("confidence 0.49", "60% of its letters", "evidence for 10% of 8 words", "60.0 letters a second",
                 "2.50 letters heard for each"):  # fmt: skip
        assert any(part in reason for reason in flagged.reasons), part
    plain = judge(RIGHT, 0.2, calibration, config)
    assert plain.low_quality and len(plain.reasons) == 1 and not plain.length_mismatch
    assert judge(RIGHT, 0.65, calibration, config.model_copy(update={"min_confidence": 0.7})).low_quality


def test_a_coverage_that_nobody_measured_is_no_reason() -> None:
    calibration = fit(CLEAN, DAMAGED, IDENTITIES)
    found = judge(replace(RIGHT, coverage=None), 0.1, calibration, AuditConfig(recogniser="ears"))
    assert found.coverage is None and not any("evidence" in reason for reason in found.reasons)
