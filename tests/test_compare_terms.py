"""Names and terms in a comparison: protects from a gain in WER that hides a loss in names, and from chance."""

import numpy as np
import pytest
from made_scores import ROUNDS, SAID, scored_rows

from shibolet.compare import CompareConfig, compare
from shibolet.records.documents.comparison import Comparison
from shibolet.scoring.biasing import biasing

TERMS = frozenset({"six", "five", "late"})
CONFIG = CompareConfig(bootstrap_samples=2000)


def judged(before: list[str], after: list[str], terms=TERMS) -> Comparison:
    return compare((scored_rows(before), scored_rows(after)), ROUNDS, CONFIG, terms=terms)


def without(words: set[str], share: int = 1, num: int = 60) -> list[str]:
    """What is heard of the sentences: none of these words in one of `share` utterances."""
    said = [SAID[i % len(SAID)] for i in range(num)]
    return [" ".join(word for word in text.split() if word not in words or i % share) for i, text in enumerate(said)]


def test_rates_are_those_of_the_scores_and_the_interval_is_paired():
    """Two systems that miss the same names do not differ by chance; each system's own interval would say so."""
    before, after = without({"six", "room"}), without({"six"})
    found = judged(before, after).terms
    for side, heard in zip(("baseline", "candidate"), (before, after), strict=True):
        own = biasing(scored_rows(heard), TERMS)
        for part in ("listed", "others"):
            one = getattr(getattr(found, part), side)
            assert (one.errors, one.words) == (getattr(own, part).errors, getattr(own, part).words)
    assert found.words == 3 and found.listed.interval_points == (0, 0) and found.listed.shown == "no difference shown"
    assert found.others.shown == "better" and found.others.interval_points[1] < 0


def test_a_gain_that_is_paid_with_names_is_said_beside_the_verdict():
    before, after = without({"call", "two", "room"}), without({"five"})
    found = judged(before, after)
    assert found.overall.wer.shown == "better" and found.terms.listed.shown == "worse"
    assert found.terms.listed.delta_points == pytest.approx(100 / 3)
    (line,) = [line for line in found.beside if "B-WER" in line]
    assert line.startswith("Of the 3 words of evaluate.context: B-WER 0.0% and 33.3%, +33.33 points, 95% interval ")
    assert ", worse. U-WER " in line and line.endswith("Written where they are not said: 0 and 0.")


def test_the_interval_is_that_of_groups():
    """By another implementation: the delta method over recordings, each of one utterance."""
    rng = np.random.default_rng(0)
    said = [SAID[i % len(SAID)] for i in range(400)]
    heard = [text if rng.random() < 0.5 else " ".join(w for w in text.split() if w not in TERMS) for text in said]
    found = judged(said, heard).terms.listed
    lost = np.array([len(a.split()) - len(b.split()) for a, b in zip(said, heard)], float)
    words = np.array([sum(word in TERMS for word in text.split()) for text in said], float)
    rate = lost.sum() / words.sum()
    error = np.sqrt(((lost - rate * words) ** 2).sum()) / words.sum()
    assert found.delta_points == pytest.approx(100 * rate)
    assert found.interval_points[1] - found.interval_points[0] == pytest.approx(2 * 196 * error, rel=0.08)


def test_without_a_list_nothing_is_said_and_words_that_no_reference_has_have_no_rate():
    assert judged(without(set()), without(set()), ()).terms is None
    found = judged(without(set()), [f"{text} dana" for text in without(set())], {"dana"}).terms
    assert found.listed.delta_points is None and found.false_words == (0, 60)
    assert "B-WER has no words in the references." in found.sentence
