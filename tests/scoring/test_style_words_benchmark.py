"""Figures of the benchmark of style words: how far F1 of two systems is apart, and where sentences get their marks."""

import sys
from pathlib import Path

import numpy as np
import pytest

from shibolet.scoring.intervals import resample


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield __import__("style_words")
    for name in ("style_words", "demo_worlds", "whisper_jobs", "whisper_settings", "whisper_figures"):
        sys.modules.pop(name)


def test_a_difference_of_f1_has_the_width_of_a_bootstrap_over_groups(bench):
    """Protects from an interval that takes the two systems for independent, or utterances for groups."""
    rng = np.random.default_rng(3)
    num, per_group = 40, 5
    said = rng.integers(1, 4, num * per_group)
    easy = np.repeat(rng.beta(8, 2, num), per_group)  # what is hard is hard for both
    hits = [rng.binomial(said, np.clip(easy + gain, 0, 1)) for gain in (0.0, -0.1)]
    first, second = (np.stack([2 * own, 2 * said], axis=1).astype(float) for own in hits)
    groups = [f"s{i // per_group}" for i in range(len(said))]
    points, low, high = bench.f1_difference(first, second, groups)
    sums = np.concatenate([first, second], axis=1).reshape(num, per_group, 4).sum(axis=1)
    drawn = resample(sums, 4000, 0)
    changes = 100 * (drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1])
    assert points == pytest.approx(100 * (second[:, 0].sum() - first[:, 0].sum()) / first[:, 1].sum(), abs=0.01)
    assert high - low == pytest.approx(2 * 2.02 * changes.std(), rel=0.1) and low < points < high < 0
    assert bench.f1_difference(first, first, groups) == [0.0, 0.0, 0.0]


def test_marks_stand_where_words_decide(bench):
    """Protects from a corpus without one of its marks, whose F1 would then be of two."""
    categories = {"why": "ask", "because": "because", "but": "but"}
    marked = [bench.with_marks(text, categories) for text in ("why does it rain", "it rains because it must", "but no")]
    assert marked == ["why does it rain?", "it rains, because it must.", "but no."]
