"""A person's review: the rates are those of the population whatever was looked at besides, and cover the truth."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from audit_documents import audited

from shibolet.audit.review import (
    MIN_ANSWERED,
    NUM_DRAWN,
    draw_cells,
    human_flags,
    keep_review,
    read_saved,
    review,
)
from shibolet.audit.sampling import lot
from shibolet.errors import DataError
from shibolet.gate.correction import corrected_rate
from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import Review, StratumSize
from shibolet.records.documents.calibration import ErrorRates
from shibolet.records.review import Answer, read_review
from shibolet.scoring.rates import clopper_pearson

SIZES = {"clean": 4000, "noisy": 1000}  # of the population; the sample takes as many of each
FLAGGED = {"clean": 0.08, "noisy": 0.3}
SCORES = {True: (0.05, 0.3), False: (0.6, 0.9, 0.99)}  # of the flagged and of the passed, in equal parts
BAD = {0.05: 0.9, 0.3: 0.5, 0.6: 0.1, 0.9: 0.04, 0.99: 0.01}  # share that is bad in truth, by score; noisy: half more
TRUTH = {
    (domain, flagged): float(np.mean([min(1.0, BAD[score] * (1.5 if domain == "noisy" else 1)) for score in scores]))
    for domain in SIZES
    for flagged, scores in SCORES.items()
}
STRATA = {name: StratumSize(num_utterances=size, hours=1.0) for name, size in SIZES.items()}


def heard(rng: np.random.Generator, num: int = 1000) -> tuple[list[Audited], dict[str, str]]:
    """A sample of both domains in equal parts, and what a person would say of each."""
    rows, truth = [], {}
    for i in range(num):
        domain = ("clean", "noisy")[i % 2]
        flagged = bool(rng.random() < FLAGGED[domain])
        score = SCORES[flagged][int(rng.integers(len(SCORES[flagged])))]
        row = audited(
            f"u{i:04d}", confidence=score, domain=domain, text=f"text {i}", is_low_quality=flagged,
            suspect="wrong_text" if flagged else None,
        )  # fmt: skip
        rows.append(row)
        bad = BAD[score] * (1.5 if domain == "noisy" else 1)
        truth[row.id] = "bad" if rng.random() < bad else "good"
    return rows, truth


def answers_to(ids, truth: dict[str, str]) -> dict[str, Answer]:
    return {id: Answer(id=id, verdict=truth[id], text=f"text {int(id[1:])}") for id in ids}


def order_of(rows, seed: int = 0) -> list[str]:
    return list(review(rows, STRATA, {}, seed, 0.95).draw)


def judged(rows, truth, num: int, seed: int = 0) -> Review:
    """The result of a person who answers the first `num` of the draw."""
    order = order_of(rows, seed)
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


def test_intervals_cover_the_truth_of_the_population():
    """The sample is half noisy and the population a fifth; a rate of the sample alone would miss by far."""
    covered, widths, means = Counter(), Counter(), Counter()
    rounds = 150
    for i in range(rounds):
        rows, truth = heard(np.random.default_rng(i))
        result = judged(rows, truth, 120, seed=i)
        for name, true in true_rates().items():
            rate = getattr(result, name)
            covered[name] += rate.lower <= true <= rate.upper
            widths[name] += (rate.upper - rate.lower) / rounds
            means[name] += rate.rate / rounds
    for name, true in true_rates().items():
        assert covered[name] >= 0.92 * rounds, (name, covered[name], rounds)
        assert abs(means[name] - true) < 0.2 * widths[name], (name, means[name], true)
    assert widths["corrected_low_quality_pct"] < 16, widths


def test_looking_at_the_worst_besides_changes_no_rate():
    """A person begins with the worst; verdicts on these must not enter rates that speak for all."""
    rows, truth = heard(np.random.default_rng(1))
    alone = judged(rows, truth, 100)
    order = order_of(rows)
    nearly = set(order[100:140])  # so that no cell's beginning grows
    worst = [row.id for row in rows if row.is_low_quality and row.id not in order[:100] and row.id not in nearly]
    worst = worst[:30]
    assert len(worst) == 30 and set(order[140:]) & set(worst)
    both = review(rows, STRATA, answers_to([*order[:100], *worst], truth), 0, 0.95)
    rates = ("false_discovery_pct", "false_omission_pct", "corrected_low_quality_pct", "sensitivity", "num_counted")
    assert [getattr(both, name) for name in rates] == [getattr(alone, name) for name in rates]
    assert both.num_answered == 130 and "30 verdicts are on utterances that the person chose" in both.notes[0]


def test_rogan_gladen_on_the_audits_rate_gives_the_corrected_rate():
    """The gate corrects with sensitivity and specificity; both ways must agree."""
    rows, truth = heard(np.random.default_rng(2))
    failed = replace(rows[0], failure="undecodable", is_low_quality=True, suspect=None)
    rows += [replace(failed, id=f"f{i}") for i in range(12)]
    result = judged(rows, truth, 120)
    num = Counter(row.domain for row in rows)
    low = Counter(row.domain for row in rows if row.is_low_quality)
    apparent = sum(SIZES[d] / sum(SIZES.values()) * low[d] / num[d] for d in SIZES)
    errors = ErrorRates(
        sensitivity=result.sensitivity, specificity=result.specificity, num_damaged=1, num_clean=1,
        measured_on="a review",
    )  # fmt: skip
    corrected = result.corrected_low_quality_pct.rate
    assert 100 * corrected_rate(apparent, errors) == pytest.approx(corrected, abs=0.15)  # cells are whole utterances
    assert abs(100 * apparent - corrected) > 0.2, "a correction that changes nothing shows nothing"


def test_everything_heard_and_judged_has_no_interval_left():
    rows, truth = heard(np.random.default_rng(3), 100)
    strata = {name: StratumSize(num_utterances=50, hours=1.0) for name in SIZES}
    result = review(rows, strata, answers_to(truth, truth), 0, 0.95)
    assert result.num_counted == 100
    num_bad = sum(verdict == "bad" for verdict in truth.values())
    assert set(result.corrected_low_quality_pct.model_dump().values()) == {float(num_bad)}


def test_too_few_answers_give_no_rate_and_say_so():
    rows, truth = heard(np.random.default_rng(4))
    few = judged(rows, truth, MIN_ANSWERED - 1)
    assert few.false_discovery_pct is few.sensitivity is few.corrected_low_quality_pct is None
    assert f"{MIN_ANSWERED - 1} utterances are judged good or bad, and {MIN_ANSWERED} are needed" in few.notes[0]
    assert judged(rows, truth, MIN_ANSWERED).false_discovery_pct is not None
    passed = [row.id for row in rows if not row.is_low_quality]
    onesided = review(rows, STRATA, answers_to(passed, truth), 0, 0.95)
    assert onesided.corrected_low_quality_pct is None
    assert "0 of the flagged are judged good or bad, and 3 are needed" in onesided.notes[-1]
    nobody = review(rows, STRATA, {}, 0, 0.95)
    assert nobody.num_answered == 0 and nobody.notes == () and nobody.draw
    clean = [row for row in rows if not row.is_low_quality]
    unflagged = review(clean, STRATA, answers_to(truth, truth), 0, 0.95)
    assert unflagged.false_discovery_pct is None and unflagged.sensitivity == 0
    assert 1 < unflagged.corrected_low_quality_pct.rate < 8


def test_an_answer_left_out_ends_the_random_sample_of_its_cell_and_unsure_does_not():
    """Whoever skips what is hard leaves a sample of what is easy; saying unsure is an answer and is counted."""
    rows, truth = heard(np.random.default_rng(5))
    cells = draw_cells(rows, 0)
    first = cells["clean", False]
    skipped = answers_to([id for ids in cells.values() for id in ids if id != first[3]], truth)
    total = sum(map(len, cells.values()))
    assert review(rows, STRATA, skipped, 0, 0.95).num_counted == total - len(first) + 3
    unsure = skipped | {first[3]: Answer(id=first[3], verdict="unsure", text=f"text {int(first[3][1:])}")}
    result = review(rows, STRATA, unsure, 0, 0.95)
    assert result.num_counted == total and f"1 of {total} in the draw are unsure" in result.notes[0]


def test_a_sample_that_grows_loses_no_answer_and_says_nothing_untrue():
    """`--extend` hears more of each domain in the order of the sample's lots; a person has answered 60 before."""
    rows, truth = heard(np.random.default_rng(8))
    rows.sort(key=lambda row: lot(0, row.id))
    order = order_of(rows[:300])
    answers = answers_to(order[:60], truth)
    before = review(rows[:300], STRATA, answers, 0, 0.95)
    assert before.num_counted == 60 and before.notes == ()
    after = review(rows, STRATA, answers, 0, 0.95)
    assert after.num_counted == 60 and after.notes == ()
    assert after.false_discovery_pct and len(after.draw) == NUM_DRAWN
    for cell, ids in draw_cells(rows[:300], 0).items():
        assert draw_cells(rows, 0)[cell][: len(ids)] == ids


def test_the_draw_hangs_on_ids_alone_and_asks_most_where_most_is_at_stake():
    rows, _ = heard(np.random.default_rng(6))
    cells = draw_cells(rows, 0)
    assert draw_cells(rows[::-1], 0) == cells and draw_cells(rows, 1) != cells
    order = order_of(rows)
    assert len(order) == NUM_DRAWN == len(set(order))
    cell_of = {id: cell for cell, ids in cells.items() for id in ids}
    asked, size = Counter(map(cell_of.get, order)), {cell: len(ids) for cell, ids in cells.items()}
    assert set(asked) == set(cells) and min(asked.values()) >= 2
    assert asked["clean", 2] / size["clean", 2] > 1.5 * asked["clean", 4] / size["clean", 4], "scores near the line"
    assert asked["clean", 4] > 1.5 * asked["noisy", 4], "four fifths of the population"
    for cell, ids in cells.items():
        drawn = [id for id in order if cell_of[id] == cell]
        assert drawn == ids[: len(drawn)], "a cell in its own order"
    rows[0] = replace(rows[0], failure="undecodable")
    assert rows[0].id not in order_of(rows)


def test_a_few_events_among_many_passed_are_covered():
    """A detector that finds half of the bad ones: cells with an effective size in common covered 91% here."""
    covered, rounds = 0, 300
    strata = {"a": StratumSize(num_utterances=45_000, hours=1.0)}
    for i in range(rounds):
        rng, rows, truth = np.random.default_rng(i), [], {}
        for j in range(1000):
            is_bad = bool(rng.random() < 0.10)
            flagged = bool(rng.random() < (0.5 if is_bad else 0.005))
            score = (
                0.2
                if flagged
                else float(rng.choice([0.6, 0.9, 0.99], p=[0.4, 0.3, 0.3] if is_bad else [0.1, 0.2, 0.7]))
            )
            rows.append(audited(f"u{j:04d}", domain="a", text=f"text {j}", confidence=score, is_low_quality=flagged))
            truth[f"u{j:04d}"] = "bad" if is_bad else "good"
        order = review(rows, strata, {}, i, 0.95).draw
        found = review(rows, strata, answers_to(order[:120], truth), i, 0.95).corrected_low_quality_pct
        covered += found.lower <= 10.0 <= found.upper
    assert covered >= 0.93 * rounds


def test_a_domain_without_an_answer_is_not_taken_to_be_like_another():
    """A is good and B is not; whoever skips the first of B's passed leaves B unknown, and not as good as A."""
    strata = {name: StratumSize(num_utterances=num, hours=1.0) for name, num in (("a", 1000), ("b", 9000))}
    rows = [
        audited(f"{domain}{i:03d}", domain=domain, text="x", confidence=0.99 if i else 0.2, is_low_quality=not i)
        for domain in "ab"
        for i in range(150)
    ]
    first = draw_cells(rows, 0)["b", 4][0]
    answers = {
        row.id: Answer(id=row.id, verdict="bad" if row.domain == "b" and i % 6 == 0 else "good", text="x")
        for i, row in enumerate(rows)
        if row.id != first
    }
    found = review(rows, strata, answers, 0, 0.95)
    assert found.corrected_low_quality_pct.upper > 50
    assert f"Nothing is known of domain 'b' where the score lies between 0.95 and 1: '{first}'" in found.notes[-1]


def test_what_was_heard_is_a_sample_however_much_of_it_is_answered():
    """240 heard and judged, 20 flagged of which 10 are bad, 220 passed of which 8: as 18 of 240."""
    rows = [
        audited(f"u{i:03d}", domain="a", text="x", confidence=0.2 if i < 20 else 0.9, is_low_quality=i < 20)
        for i in range(240)
    ]
    answers = {r.id: Answer(id=r.id, verdict="bad" if i < 10 or i >= 232 else "good", text="x")
               for i, r in enumerate(rows)}  # fmt: skip
    found = review(rows, {"a": StratumSize(num_utterances=45_000, hours=1.0)}, answers, 0, 0.95)
    lower, upper = clopper_pearson(18 / 240, 240, 0.95)
    assert found.corrected_low_quality_pct.lower == pytest.approx(100 * lower, abs=0.3)
    assert found.corrected_low_quality_pct.upper == pytest.approx(100 * upper, abs=0.3)


def test_more_answers_are_forecast_until_everything_is_judged():
    rows, truth = heard(np.random.default_rng(9), 300)
    lines = judged(rows, truth, 120).forecast
    widths = [line.upper - line.lower for line in lines]
    assert widths == sorted(widths, reverse=True)
    lower, upper = clopper_pearson(0.1, 300, 0.95)
    assert 0.7 * 100 * (upper - lower) < widths[-1] < 0.9 * widths[0], "what was heard is a sample too"
    assert lines[0].num_answers > 120 and lines[-1].num_answers == 300


def test_answers_about_other_texts_and_other_utterances_do_not_count():
    rows, truth = heard(np.random.default_rng(7))
    order = order_of(rows)
    answers = answers_to(order[:100], truth)
    answers[order[0]] = Answer(id=order[0], verdict="bad", text="what stood there before")
    answers["nobody"] = Answer(id="nobody", verdict="bad", text="x")
    notes = " ".join(review(rows, STRATA, answers, 0, 0.95).notes)
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
    assert read_saved(path)["a"].verdict == "good"
    with pytest.raises(DataError, match="none of its 1 verdicts is about an utterance of this data set"):
        keep_review(path, kept, {"a": "other", "b": "x\u2028y"})
    for line in ("{", '{"id": "a"}', '{"id": "a", "verdict": "fine", "text": ""}', '["a"]'):
        path.write_text(f'{{"id": "b", "verdict": "bad", "text": ""}}\n{line}\n', encoding="utf-8")
        with pytest.raises(DataError, match=r"review\.jsonl, line 2: "):
            read_saved(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_saved(tmp_path / "absent.jsonl")
    answer = '{"id": "a", "verdict": "good", "text": "שלום עולם"}\n'
    for content, said in (
        (answer.encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        (answer.encode("cp1255"), "line 1: .*windows-1255"),
        (f"[{answer.strip()}]".encode(), "is a JSON array: one object a line"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_saved(path)
    path.write_bytes(f"\ufeff{answer}\r\n\ufeff{answer}".encode())
    assert list(read_saved(path)) == ["a"]


def test_flags_of_the_data_set_against_verdicts():
    rows = [
        audited("a", flags=("noisy",), is_low_quality=True, suspect="wrong_text"),
        audited("b", flags=("noisy", "too_long")),
        audited("c", flags=(), is_low_quality=True, failure="undecodable"),
        audited("d", is_low_quality=True),
        audited("e", is_low_quality=True, failure="missing_file"),
    ]
    table = human_flags(rows)
    assert table.num_utterances == 3 and list(table.flags) == ["noisy", "too_long"]
    noisy = {"count": 2, "low_quality_count": 1, "low_quality_percentage": 50.0, "suspects": {"wrong_text": 1}}
    assert table.flags["noisy"].model_dump() == noisy and table.none.suspects == {"undecodable": 1}
    assert human_flags(rows[3:]) is None
