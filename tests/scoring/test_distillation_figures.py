"""Figures of the distillation benchmark: the part of the gap that an arm closes, and the arm that it is laid beside."""

import sys
from pathlib import Path

import pytest
from made_scores import SAID, scored_rows


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield __import__("distillation_figures")
    sys.modules.pop("distillation_figures")


def heard(num_wrong: int, num: int = 40) -> list:
    """Rows of so many utterances, a word too many in some of them."""
    texts = [SAID[i % len(SAID)] for i in range(num)]
    return scored_rows([f"{text} wrong" if i < num_wrong else text for i, text in enumerate(texts)], "test_clean")


def test_an_arm_closes_the_part_of_the_gap_that_its_errors_left(bench):
    """Protects from a share of the wrong gap, of one seed for all, and from a stage beside the wrong arm."""
    rows = {(seed, "teacher"): heard(0) for seed in (1, 2)} | {(seed, "plain"): heard(40) for seed in (1, 2)}
    rows |= {(1, "texts"): heard(24), (2, "texts"): heard(16), (1, "top_k"): heard(4), (2, "top_k"): heard(16)}
    gap, plain, texts, top_k = bench.stages_of(["plain", "texts", "top_k"], [1, 2], rows)
    words = sum(one.words.reference_length for one in heard(0))
    assert gap["gap"]["points"] == pytest.approx(100 * 40 / words, abs=0.01) and gap["groups"] == 80
    assert plain["closed"]["pct"] == 0 and "adds" not in plain and "adds" not in texts
    assert texts["closed"]["pct"] == 50 and texts["closed"]["by_seed"] == pytest.approx([40, 60], abs=0.1)
    low, high = texts["closed"]["interval_over_seeds"]  # 12.706 standard errors of 10 around 50
    assert (low, high) == pytest.approx((-77.06, 177.06), abs=0.5)
    low, high = texts["closed"]["interval"]
    assert 30 < low < 50 < high < 70
    assert top_k["closed"]["pct"] == 75 and top_k["adds"]["to"] == "texts"
    assert top_k["adds"]["of_the_gap"]["pct"] == 25 and top_k["adds"]["points"] < 0


def test_texts_that_were_exchanged_are_counted(bench):
    """Protects from a damage that never reached the data, and from texts laid beside those of other utterances."""
    said = {"free-1": "אבא בא", "free-2": "שלום לך"}
    right = {"free-1-0000": "אבא בא", "free-2-0000": "שלום לה"}
    assert bench.texts_of(said, right, right) == {"texts": 2, "wer_pct": 25.0, "exchanged": 0}
    swapped = {"free-1-0000": "שלום לה", "free-2-0000": "אבא בא"}
    assert bench.texts_of(said, right, swapped) == {"texts": 2, "wer_pct": 100.0, "exchanged": 2}
    assert bench.texts_of(said, right, {}) == {"texts": 0, "wer_pct": None, "exchanged": 0}
