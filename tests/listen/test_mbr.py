"""Minimum Bayes risk: the text with the fewest expected word errors, and the greedy one where nothing is won."""

import numpy as np
import pytest

from shibolet.listen.mbr import least_risk
from shibolet.speech.text import get_language

ENGLISH = get_language("English")


def test_the_text_between_the_samples_is_taken():
    """No sample is written twice, and the third has one error against each of the others."""
    samples = ["a b c d", "x b c y", "x b c d"]
    assert least_risk("q q q q", samples, ENGLISH) == 3
    assert least_risk("x b c d", ["a b c d", "x b c y"], ENGLISH) == 0, "the greedy text may be the one between"


def test_texts_are_compared_as_they_are_scored():
    """Protects from commas and capitals that count as errors where scoring knows none."""
    samples = ["One, two.", "one two", "ONE TWO", "one ten", "one ten"]
    assert least_risk("one ten", samples, ENGLISH) == 1


def test_a_tie_goes_to_the_greedy_text_then_to_the_first():
    assert least_risk("a b", ["a c", "a b"], ENGLISH) == 0
    assert least_risk("a q", ["b c", "b d"], ENGLISH) == 1
    assert least_risk("", ["", "word"], ENGLISH) == 0


def test_each_text_is_judged_by_every_sample_and_by_no_greedy_one():
    """Against plain loops: an edit distance by its recurrence, each sample once however often it comes."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        texts = [" ".join(rng.choice(list("abc"), rng.integers(0, 5))) for _ in range(6)]
        risks = [sum(edits(sample.split(), text.split()) for sample in texts[1:]) for text in texts]
        assert least_risk(texts[0], texts[1:], ENGLISH) == risks.index(min(risks))


def edits(one: list[str], other: list[str]) -> int:
    if not one or not other:
        return len(one) + len(other)
    same = edits(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, edits(one[1:], other) + 1, edits(one, other[1:]) + 1)


@pytest.mark.parametrize("num", [0, 1])
def test_few_samples_are_no_special_case(num):
    assert least_risk("a", ["b"][:num], ENGLISH) == num
