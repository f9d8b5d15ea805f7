"""Protects keep and reject: only a difference that the interval shows is kept, and nothing is compared unpaired."""

import json
import random
from dataclasses import replace

import pytest

from shibolet.compare import CompareConfig, compare
from shibolet.errors import DataError
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow

CONFIG = CompareConfig(bootstrap_samples=1000)


def rows(errors: dict[str, float], num: int = 60, seed: int = 0) -> list[ScoredRow]:
    """`num` utterances of ten words in each domain with about that share of wrong words, three to a recording."""
    rng = random.Random(seed)
    made = []
    for domain, rate in errors.items():
        for i in range(num):
            wrong = sum(rng.random() < rate for _ in range(10))
            made.append(
                ScoredRow(
                    id=f"u{i}",
                    set=f"eval-{domain}",
                    domain=domain,
                    cluster=f"eval-{domain}/r{i // 3}",
                    speaker=None,
                    duration_s=2.0 + i % 20,
                    reference=f"ref {i}",
                    hypothesis="",
                    said="",
                    heard="",
                    words=EditCounts(10 - wrong, wrong),
                    chars=EditCounts(50 - wrong, wrong),
                )
            )
    return made


def test_a_clear_gain_is_kept_and_reported_in_points() -> None:
    before, after = rows({"clean": 0.2, "whatsapp_noisy": 0.5}), rows({"clean": 0.1, "whatsapp_noisy": 0.3}, seed=1)
    result = compare(before, after, CONFIG)
    wer = result["overall"]["wer"]
    errors = [sum(row.words.errors for row in side) for side in (before, after)]
    assert [wer[name]["errors"] for name in ("round1", "round2")] == errors
    assert wer["delta_points"] == pytest.approx(100 * (errors[1] - errors[0]) / 1200)
    assert wer["delta_relative_pct"] == pytest.approx(100 * (errors[1] / errors[0] - 1))
    assert wer["interval_points"][0] < wer["delta_points"] < wer["interval_points"][1] < 0
    assert wer["probability_of_improvement"] == 1.0
    assert (result["verdict"], result["lead_with"], result["next_steps"]) == ("keep", "sets", [])
    assert result["target"]["reached"] and result["sentence"].startswith("Round 2 is better")
    assert list(result["sets"]) == ["eval-clean", "eval-whatsapp_noisy"]
    assert sum(block["utterances"] for block in result["buckets"].values()) == result["overall"]["utterances"] == 120
    assert result["overall"]["recordings"] == 40
    assert result["overall"]["cer"]["round1"]["chars"] == 6000
    json.dumps(result, allow_nan=False)


def test_no_difference_is_rejected_with_both_next_steps() -> None:
    result = compare(rows({"whatsapp_noisy": 0.3}), rows({"whatsapp_noisy": 0.3}, seed=1), CONFIG)
    assert result["verdict"] == "reject" and result["sentence"].startswith("No difference shown")
    assert result["lead_with"] == "domains"
    assert len(result["next_steps"]) == 2 and "codec augmentation" in result["next_steps"][1]


def test_worse_is_named_worse() -> None:
    result = compare(rows({"clean": 0.1}), rows({"clean": 0.3}, seed=1), CONFIG)
    assert result["verdict"] == "reject" and result["sentence"].startswith("Round 2 is worse")
    assert not any("codec" in step for step in result["next_steps"])  # no noisy domain in these sets


def test_a_small_but_certain_gain_is_kept_and_leads_with_domains() -> None:
    before = rows({"clean": 0.3}, num=300)
    after = [
        replace(row, words=EditCounts(row.words.hits + (i % 20 == 0), row.words.substitutions - (i % 20 == 0)))
        if row.words.substitutions
        else row
        for i, row in enumerate(before)
    ]
    result = compare(before, after, CONFIG)
    assert 0 < result["target"]["gained_points"] < 1
    assert (result["verdict"], result["lead_with"]) == ("keep", "domains")


def test_same_input_same_bytes_in_any_order_of_round_2() -> None:
    before, after = rows({"clean": 0.2}), rows({"clean": 0.15}, seed=1)
    assert json.dumps(compare(before, after, CONFIG)) == json.dumps(compare(before, after[::-1], CONFIG))


def test_one_recording_cannot_be_judged() -> None:
    before, after = rows({"clean": 0.5}, num=3), rows({"clean": 0.0}, num=3)
    result = compare(before, after, CONFIG)
    assert result["verdict"] == "reject" and result["sentence"].startswith("No interval")
    assert result["overall"]["wer"]["interval_points"] is None


def test_what_does_not_pair_is_an_error() -> None:
    both = rows({"clean": 0.2}, num=10)
    with pytest.raises(
        DataError, match="4 of 10 utterances have no score in Round 2: eval-clean/u0, eval-clean/u1, eval-clean/u2, "
    ):
        compare(both, both[4:], CONFIG)
    with pytest.raises(DataError, match="1 of 10 utterances have no score in Round 1: eval-clean/u9;"):
        compare(both[:9], both, CONFIG)
    with pytest.raises(DataError, match="Round 2 scores utterance 'u0' of set 'eval-clean' twice"):
        compare(both, [*both, both[0]], CONFIG)
    with pytest.raises(DataError, match="another reference"):
        compare(both, [replace(both[0], words=EditCounts(9)), *both[1:]], CONFIG)
    with pytest.raises(DataError, match="nothing to compare"):
        compare([], [], CONFIG)
