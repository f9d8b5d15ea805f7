"""A person's review: the rates are those of the population whatever was looked at besides, and cover the truth."""

import json
from collections import Counter

import numpy as np
import pytest

from shibolet.audit.review import (
    MIN_ANSWERED,
    NUM_DRAWN,
    Answer,
    draw_cells,
    human_flags,
    in_turns,
    keep_review,
    read_review,
    review,
)
from shibolet.audit.sampling import lot
from shibolet.errors import DataError
from shibolet.gate.decision import corrected_rate
from shibolet.gate.report import ErrorRates

SIZES = {"clean": 4000, "noisy": 1000}  # of the population; the sample takes as many of each
TRUTH = {("clean", False): 0.02, ("clean", True): 0.8, ("noisy", False): 0.1, ("noisy", True): 0.6}  # share that is bad
FLAGGED = {"clean": 0.08, "noisy": 0.3}
STRATA = {name: {"num_utterances": size, "hours": 1.0} for name, size in SIZES.items()}


def heard(rng: np.random.Generator, num: int = 1000, clips_a_recording: int = 1) -> tuple[list[dict], dict[str, str]]:
    """A sample of both domains in equal parts, and what a person would say of each."""
    rows, truth = [], {}
    for i in range(num):
        domain = ("clean", "noisy")[i % 2]
        flagged = bool(rng.random() < FLAGGED[domain])
        row = {"id": f"u{i:04d}", "source": "s", "recording": f"r{i // clips_a_recording}", "domain": domain,
               "speaker": None, "text": f"text {i}", "failure": None, "is_low_quality": flagged,
               "suspect": "wrong_text" if flagged else None}  # fmt: skip
        rows.append(row)
        truth[row["id"]] = "bad" if rng.random() < TRUTH[domain, flagged] else "good"
    return rows, truth


def answers_to(ids, truth: dict[str, str]) -> dict[str, Answer]:
    return {id: Answer(id=id, verdict=truth[id], text=f"text {int(id[1:])}") for id in ids}


def judged(rows, truth, num: int, seed: int = 0) -> dict:
    """The result of a person who answers the first `num` of the draw."""
    order = in_turns(draw_cells(rows, seed), seed)
    return review(rows, STRATA, answers_to(order[:num], truth), seed, 0.95)


def true_rates() -> dict[str, float]:
    weight = {d: SIZES[d] / sum(SIZES.values()) for d in SIZES}
    flagged = sum(weight[d] * FLAGGED[d] for d in SIZES)
    found = sum(weight[d] * FLAGGED[d] * TRUTH[d, True] for d in SIZES)
    missed = sum(weight[d] * (1 - FLAGGED[d]) * TRUTH[d, False] for d in SIZES)
    return {
        "false_discovery_pct": 100 * (1 - found / flagged),
        "false_omission_pct": 100 * missed / (1 - flagged),
        "corrected_low_quality_pct": 100 * (found + missed),
    }


@pytest.mark.parametrize("clips_a_recording", [1, 10])
def test_intervals_cover_the_truth_of_the_population(clips_a_recording):
    """The sample is half noisy and the population a fifth; a rate of the sample alone would miss by far."""
    covered, widths, means = Counter(), Counter(), Counter()
    rounds = 150
    for i in range(rounds):
        rows, truth = heard(np.random.default_rng(i), clips_a_recording=clips_a_recording)
        result = judged(rows, truth, 120, seed=i)
        for name, true in true_rates().items():
            covered[name] += result[name]["lower"] <= true <= result[name]["upper"]
            widths[name] += (result[name]["upper"] - result[name]["lower"]) / rounds
            means[name] += result[name]["rate"] / rounds
    for name, true in true_rates().items():
        assert covered[name] >= 0.92 * rounds, (name, covered[name], rounds)
        assert abs(means[name] - true) < 0.2 * widths[name], (name, means[name], true)
        assert widths[name] < 40, name


def test_looking_at_the_worst_besides_changes_no_rate():
    """A person begins with the worst; verdicts on these must not enter rates that speak for all."""
    rows, truth = heard(np.random.default_rng(1))
    alone = judged(rows, truth, 100)
    order = in_turns(draw_cells(rows, 0), 0)
    drawn_later = set(order[104:])  # whole turns between, so that no cell's beginning grows
    worst = [row["id"] for row in rows if row["is_low_quality"] and row["id"] not in order[:104]][:30]
    assert len(worst) == 30 and drawn_later & set(worst)
    both = review(rows, STRATA, answers_to([*order[:100], *worst], truth), 0, 0.95)
    rates = ("false_discovery_pct", "false_omission_pct", "corrected_low_quality_pct", "sensitivity", "num_counted")
    assert [both[name] for name in rates] == [alone[name] for name in rates]
    assert both["num_answered"] == 130 and "30 verdicts are on utterances that the person chose" in both["notes"][0]


def test_rogan_gladen_on_the_audits_rate_gives_the_corrected_rate():
    """The gate corrects with sensitivity and specificity; both ways must agree."""
    rows, truth = heard(np.random.default_rng(2))
    rows += [{**rows[0], "id": f"f{i}", "failure": "undecodable", "is_low_quality": True, "suspect": None}
             for i in range(12)]  # fmt: skip
    result = judged(rows, truth, 120)
    num = Counter(row["domain"] for row in rows)
    low = Counter(row["domain"] for row in rows if row["is_low_quality"])
    apparent = sum(SIZES[d] / sum(SIZES.values()) * low[d] / num[d] for d in SIZES)
    errors = ErrorRates(sensitivity=result["sensitivity"], specificity=result["specificity"], measured_on="a review")
    corrected = result["corrected_low_quality_pct"]["rate"]
    assert 100 * corrected_rate(apparent, errors) == pytest.approx(corrected, abs=0.15)  # cells are whole utterances
    assert abs(100 * apparent - corrected) > 0.5, "a correction that changes nothing shows nothing"


def test_everything_heard_and_judged_has_no_interval_left():
    rows, truth = heard(np.random.default_rng(3), 100)
    strata = {name: {"num_utterances": 50, "hours": 1.0} for name in SIZES}
    result = review(rows, strata, answers_to(truth, truth), 0, 0.95)
    assert result["num_counted"] == 100
    num_bad = sum(verdict == "bad" for verdict in truth.values())
    assert set(result["corrected_low_quality_pct"].values()) == {float(num_bad)}


def test_too_few_answers_give_no_rate_and_say_so():
    rows, truth = heard(np.random.default_rng(4))
    few = judged(rows, truth, 2 * MIN_ANSWERED - 4)
    assert few["false_discovery_pct"] is few["sensitivity"] is few["corrected_low_quality_pct"] is None
    assert f"18 of the flagged are judged good or bad, and {MIN_ANSWERED} are needed" in few["notes"][0]
    assert judged(rows, truth, 2 * MIN_ANSWERED)["false_discovery_pct"] is not None
    nobody = review(rows, STRATA, {}, 0, 0.95)
    assert nobody["num_answered"] == 0 and nobody["notes"] == [] and nobody["draw"]
    clean = [row for row in rows if not row["is_low_quality"]]
    assert "no utterance was flagged" in review(clean, STRATA, answers_to(truth, truth), 0, 0.95)["notes"][-1]


def test_an_answer_left_out_ends_the_random_sample_of_its_cell_and_unsure_does_not():
    """Whoever skips what is hard leaves a sample of what is easy; saying unsure is an answer and is counted."""
    rows, truth = heard(np.random.default_rng(5))
    cells = draw_cells(rows, 0)
    first = cells["clean", False]
    skipped = answers_to([id for ids in cells.values() for id in ids if id != first[3]], truth)
    total = sum(map(len, cells.values()))
    assert review(rows, STRATA, skipped, 0, 0.95)["num_counted"] == total - len(first) + 3
    unsure = skipped | {first[3]: Answer(id=first[3], verdict="unsure", text=f"text {int(first[3][1:])}")}
    result = review(rows, STRATA, unsure, 0, 0.95)
    assert result["num_counted"] == total and f"1 of {total} in the draw are unsure" in result["notes"][0]


def test_a_sample_that_grows_loses_no_answer_and_says_nothing_untrue():
    """`--extend` hears more of each domain in the order of the sample's lots; a person has answered 60 before."""
    rows, truth = heard(np.random.default_rng(8))
    rows.sort(key=lambda row: lot(0, row["id"]))
    order = in_turns(draw_cells(rows[:300], 0), 0)
    answers = answers_to(order[:60], truth)
    before = review(rows[:300], STRATA, answers, 0, 0.95)
    assert before["num_counted"] == 60 and before["notes"] == []
    after = review(rows, STRATA, answers, 0, 0.95)
    assert after["num_counted"] == 60 and after["notes"] == []
    assert after["false_discovery_pct"] and len(after["draw"]) == NUM_DRAWN
    for cell, ids in draw_cells(rows[:300], 0).items():
        assert draw_cells(rows, 0)[cell][: len(ids)] == ids


def test_the_draw_hangs_on_ids_alone_and_gives_each_cell_its_turn():
    rows, _ = heard(np.random.default_rng(6))
    cells = draw_cells(rows, 0)
    assert draw_cells(rows[::-1], 0) == cells and draw_cells(rows, 1) != cells
    order = in_turns(cells, 0)
    assert len(order) == NUM_DRAWN and len(set(order) & set(cells["noisy", True])) in range(60, 100)
    cell_of = {id: cell for cell, ids in cells.items() for id in ids}
    assert all({cell_of[id] for id in order[i : i + 4]} == set(cells) for i in range(0, 40, 4))
    assert len({tuple(cell_of[id] for id in order[i : i + 4]) for i in range(0, 40, 4)}) > 4  # not in one order
    rows[0]["failure"] = "undecodable"
    assert rows[0]["id"] not in in_turns(draw_cells(rows, 0), 0)


def test_answers_about_other_texts_and_other_utterances_do_not_count():
    rows, truth = heard(np.random.default_rng(7))
    order = in_turns(draw_cells(rows, 0), 0)
    answers = answers_to(order[:100], truth)
    answers[order[0]] = Answer(id=order[0], verdict="bad", text="what stood there before")
    answers["nobody"] = Answer(id="nobody", verdict="bad", text="x")
    notes = " ".join(review(rows, STRATA, answers, 0, 0.95)["notes"])
    assert "1 verdicts are about another text" in notes and "1 verdicts are about utterances outside" in notes


def test_reviews_add_up_and_the_later_answer_counts(tmp_path):
    path, kept, texts = tmp_path / "saved.jsonl", tmp_path / "review.jsonl", {"a": "x", "b": "y"}
    for said, told in (
        ({"a": "bad", "b": "bad"}, "2 answers to 0"),
        ({"a": "good"}, "1 answers to 2 that were there, 1"),
    ):
        lines = [json.dumps({"id": id, "verdict": verdict, "text": texts[id]}) for id, verdict in said.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
        assert told in keep_review(path, kept, texts)
    assert {id: answer.verdict for id, answer in read_review(kept).items()} == {"a": "good", "b": "bad"}


def test_files_that_are_no_review_are_refused(tmp_path):
    path, kept = tmp_path / "review.jsonl", tmp_path / "audit" / "review.jsonl"
    lines = [{"id": "a", "verdict": "bad", "text": "x\u2028y"}, {"id": "a", "verdict": "good", "text": "x\u2028y"}]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
    keep_review(path, kept, {"a": "x\u2028y"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as an editor on Windows saves it
    assert read_review(kept)["a"].verdict == "good"
    with pytest.raises(DataError, match="none of its 1 verdicts is about an utterance of this data set"):
        keep_review(path, kept, {"a": "other", "b": "x\u2028y"})
    for line in ("{", '{"id": "a"}', '{"id": "a", "verdict": "fine", "text": ""}', '["a"]'):
        path.write_text(f'{{"id": "b", "verdict": "bad", "text": ""}}\n{line}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"review\.jsonl, line 2: "):
            read_review(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_review(tmp_path / "absent.jsonl")


def test_flags_of_the_data_set_against_verdicts():
    rows = [
        {"flags": ["noisy"], "is_low_quality": True, "suspect": "wrong_text"},
        {"flags": ["noisy", "too_long"], "is_low_quality": False, "suspect": None},
        {"flags": [], "is_low_quality": True, "suspect": None, "failure": "undecodable"},
        {"flags": None, "is_low_quality": True, "suspect": None},
        {"is_low_quality": True, "failure": "missing_file"},
    ]  # fmt: skip
    table = human_flags(rows)
    assert table["num_utterances"] == 3 and list(table["flags"]) == ["noisy", "too_long"]
    noisy = {"count": 2, "low_quality_count": 1, "low_quality_percentage": 50.0, "suspects": {"wrong_text": 1}}
    assert table["flags"]["noisy"] == noisy and table["none"]["suspects"] == {"undecodable": 1}
    assert human_flags(rows[3:]) is None
