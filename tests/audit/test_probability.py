"""The probability beside the score: that of the stated mixture, monotone, and measured on what did not fit it."""

from dataclasses import replace

import numpy as np
import pytest

from shibolet.audit.probability import (
    MIN_CLIPS,
    MIXTURE,
    Example,
    expected_error,
    probability_at,
    recalibrate,
    reliability,
    reported,
    weights_of,
)
from shibolet.records.documents.calibration import Recalibration

PLACES = {"good": 2.0, "gross": -4.0, "mild": 0.0}  # of their logits, which spread by 1.5


def drawn(num_clips: int, seed: int, num_gross_rows: int = 1, places=PLACES) -> list[Example]:
    """Of each clip a good copy, a mildly damaged one, and so many grossly damaged ones."""
    rng, found = np.random.default_rng(seed), []
    for i in range(num_clips):
        rows = [("good", "untouched"), ("mild", "cut"), *(("gross", f"swapped {k}") for k in range(num_gross_rows))]
        for part, row in rows:
            logit = float(places[part] + 1.5 * rng.standard_normal())
            found.append(Example(logit=logit, part=part, row=row, clip=f"{seed}/{i}", fold=i % 5))
    return found


def posterior(logits: np.ndarray) -> np.ndarray:
    density = {part: np.exp(-(((logits - place) / 1.5) ** 2) / 2) for part, place in PLACES.items()}
    return MIXTURE["good"] * density["good"] / sum(MIXTURE[part] * density[part] for part in MIXTURE)


@pytest.mark.parametrize("num_gross_rows", [1, 5])
def test_it_is_the_probability_of_the_mixture_whatever_was_drawn(num_gross_rows: int) -> None:
    """Most copies are damaged: a curve without their weights would call every clip doubtful."""
    found = recalibrate(drawn(1500, 0, num_gross_rows))
    at = np.linspace(-5, 5, 41)
    assert (
        np.abs(probability_at(found, at) - posterior(at)).max() < 0.12
        and np.abs(probability_at(found, at) - posterior(at)).mean() < 0.03
    )
    new = drawn(3000, 1)
    probability = probability_at(found, np.array([one.logit for one in new]))
    table = reliability(probability, np.array([one.part == "good" for one in new]), weights_of(new))
    assert expected_error(table) < 0.02


def test_it_rises_with_the_score_and_is_certain_of_nothing() -> None:
    apart = {"good": 20.0, "gross": -20.0, "mild": -10.0}
    for places in (PLACES, apart, dict.fromkeys(PLACES, 0.0)):
        found = recalibrate(drawn(40, 2, places=places))
        values = probability_at(found, np.linspace(-40, 40, 500))
        assert (np.diff(values) >= 0).all() and 0 < values[0] and values[-1] < 1


def test_a_score_that_knows_nothing_gives_everywhere_the_share_of_the_mixture() -> None:
    """One that is upside down too: the probability must not fall where the score rises."""
    for places in (dict.fromkeys(PLACES, 0.0), {part: -place for part, place in PLACES.items()}):
        values = probability_at(recalibrate(drawn(300, 3, places=places)), np.linspace(-3, 3, 50))
        assert np.abs(values - MIXTURE["good"]).max() < 0.06 and (np.diff(values) >= 0).all()


def test_its_table_is_of_clips_that_did_not_fit_the_curve() -> None:
    """A speaker whose scores lie lower looks well judged by a curve that has seen them."""
    examples = [replace(one, logit=one.logit - 4 * (one.fold == 0)) for one in drawn(60, 4)]
    found = recalibrate(examples)
    probability = np.zeros(len(examples))
    for fold in range(5):
        curve = recalibrate([one for one in examples if one.fold != fold])
        own = np.array([one.fold == fold for one in examples])
        probability[own] = probability_at(curve, np.array([one.logit for one in examples]))[own]
    good, weights = np.array([one.part == "good" for one in examples]), weights_of(examples)
    assert list(found.table) == reliability(probability, good, weights)
    seen = reliability(probability_at(found, np.array([one.logit for one in examples])), good, weights)
    assert found.expected_error > expected_error(seen) + 0.01


def test_within_a_part_each_row_weighs_the_same() -> None:
    examples = [one for one in drawn(60, 5, 3) if one.row != "swapped 1" or int(one.clip.partition("/")[2]) < 20]
    share = lambda test: sum(w for w, one in zip(weights_of(examples), examples, strict=True) if test(one))  # noqa: E731
    for part, expected in MIXTURE.items():
        assert share(lambda one, part=part: one.part == part) == pytest.approx(expected * len(examples))
    rows = [share(lambda one, k=k: one.row == f"swapped {k}") for k in range(3)]
    assert rows == pytest.approx([MIXTURE["gross"] / 3 * len(examples)] * 3)


def test_too_few_clips_of_a_part_and_one_recording_give_no_probability() -> None:
    enough = drawn(MIN_CLIPS, 6)
    assert recalibrate(enough) is not None and recalibrate([]) is None
    assert recalibrate([one for one in enough if one.part != "mild" or one.clip != "6/0"]) is None
    assert recalibrate([replace(one, fold=0) for one in enough]) is None


def test_one_that_was_kept_says_the_same() -> None:
    found = recalibrate(drawn(60, 7))
    again = Recalibration.model_validate_json(found.model_dump_json())
    at = np.linspace(-8, 8, 99)
    assert np.array_equal(probability_at(again, at), probability_at(found, at)) and reported(again) == reported(found)
    assert reported(again).sentence.startswith("If 80% of the clips are right, 10% grossly damaged")
