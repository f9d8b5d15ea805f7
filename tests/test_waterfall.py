"""Which part gave what: protects from steps that do not add up, from another order, and from a step sold as shown."""

import json
import random
from itertools import pairwise

import pytest
from made_scores import SAID, scored_rows

from shibolet.compare import CompareConfig, compare_systems
from shibolet.compare.waterfall import waterfall
from shibolet.errors import DataError
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import NOT_SHOWN, Waterfall
from shibolet.records.runfolder import RunFolder
from shibolet.report.waterfall import waterfall as shown_waterfall
from shibolet.scoring.rows import ScoredRow

CONFIG = CompareConfig(bootstrap_samples=1000)


def misheard(share: float, seed: int, num: int = 80) -> list[ScoredRow]:
    """The sentences in turn with that share of the words wrong."""
    rng = random.Random(seed)
    word = lambda said: "wrong" if rng.random() < share else said  # noqa: E731
    return scored_rows([" ".join(map(word, SAID[i % len(SAID)].split())) for i in range(num)])


SHARES = {"Round 2": 0.4, "trained": 0.2, "averaged": 0.2, "decoded": 0.08}
CHAIN = {title: misheard(share, seed) for seed, (title, share) in enumerate(SHARES.items())}


def of(*titles: str) -> Waterfall:
    return waterfall({named(title): CHAIN[title] for title in titles}, CONFIG)


def test_steps_add_up_to_the_whole_and_each_is_against_the_one_before():
    made = of(*CHAIN)
    assert [(step.baseline.title, step.candidate.title) for step in made.steps] == [
        ("Round 2", "trained"), ("trained", "averaged"), ("averaged", "decoded"),
    ]  # fmt: skip
    assert made.whole.titles == ("Round 2", "decoded")
    errors = [one.wer.errors for one in made.systems.values()]
    for step, (before, after) in zip(made.steps, pairwise(errors)):
        assert (step.overall.wer.baseline.errors, step.overall.wer.candidate.errors) == (before, after)
    whole = made.whole.overall.wer
    assert sum(step.overall.wer.delta_points for step in made.steps) == pytest.approx(whole.delta_points, abs=1e-9)
    assert whole.delta_points < -20


def test_a_step_that_shows_nothing_is_named_and_p_is_adjusted_for_the_steps():
    """In a chain the many parts are as many chances: an interval of one step alone would call one of twenty a gain."""
    made = of(*CHAIN)
    assert [step.overall.wer.shown == NOT_SHOWN for step in made.steps] == [False, True, False]
    assert any("No difference is shown for the step to averaged" in said for said in made.sentences)
    smallest = min(step.overall.wer.p for step in made.steps)
    assert min(step.holm_p for step in made.steps) == pytest.approx(3 * smallest)
    pair = compare_systems({named(title): CHAIN[title] for title in ("Round 2", "trained")}, CONFIG).pairs[0]
    alone = of("Round 2", "trained")
    assert alone.steps == (pair,) and alone.whole == pair, "one step is the comparison of the two"
    json.dumps(made.to_json(), allow_nan=False)


def test_a_chain_needs_two_and_the_same_utterances():
    with pytest.raises(DataError, match="needs two systems, not 1"):
        of("trained")
    with pytest.raises(DataError, match="have no score in trained"):
        waterfall({named("Round 2"): CHAIN["Round 2"], named("trained"): CHAIN["trained"][3:]}, CONFIG)


def test_the_picture_begins_every_step_where_the_one_before_ended(tmp_path):
    run = RunFolder(tmp_path)
    assert shown_waterfall(run) is None
    of(*CHAIN).write(run.waterfall)
    figure = shown_waterfall(run).figure
    rows = {row[0]: row[1:] for row in figure.rows}
    assert list(rows) == ["trained", "averaged", "decoded", "All steps"]
    assert rows["averaged"][0] == rows["trained"][1] and rows["decoded"][0] == rows["averaged"][1]
    assert rows["All steps"][:2] == (rows["trained"][0], rows["decoded"][1])
    assert "decoded" in figure.wide and figure.csv().splitlines()[0].startswith("step,before_wer_pct")
