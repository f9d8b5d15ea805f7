"""Ways to decode that are added to an admitted one: only what adds, and on groups that did not choose it."""

import random
from collections.abc import Mapping

import pytest
from made_scores import SAID, scored_rows

from shibolet.cli.tables import show_decoding
from shibolet.records.documents.decoding import MeasuredSetting, Setting
from shibolet.records.groups import halves
from shibolet.rounds import tuning
from shibolet.rounds.joining import additions, best_added, measure_joined, with_added
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.selection import fold_sums

GREEDY = tuning.GREEDY


def way(**keys) -> Setting:
    return GREEDY.model_copy(update=keys)


BEAMS, PENALTY = way(beam_size=4), way(beam_size=4, length_penalty=1.4)
FUSED = way(beam_size=4, ngram_weight=0.2)
MBR, BIAS = way(mbr_samples=8, mbr_temperature=0.7), way(repeat_bias=2.0)
BOTH = way(beam_size=4, length_penalty=1.4, ngram_weight=0.2)


def misheard(share: float, seed: int, num: int = 160) -> list[ScoredRow]:
    rng = random.Random(seed)
    word = lambda said: "wrong" if rng.random() < share else said  # noqa: E731
    return scored_rows([" ".join(map(word, SAID[i % len(SAID)].split())) for i in range(num)])


def measured(setting: Setting, rows: list[ScoredRow], points: float = 0.0) -> MeasuredSetting:
    return MeasuredSetting(
        **dict(setting), wer_pct=50 + points, cer_pct=0.0, points=points, interval_points=(points - 1, points + 1),
        folds=fold_sums(rows), seconds=1.0, audio_s_per_s=1.0, times_greedy=2.0,
    )  # fmt: skip


class Dev:
    """Scores by setting; notes what was transcribed."""

    def __init__(self, shares: Mapping[Setting, float]) -> None:
        self.rows = {setting: misheard(share, seed) for seed, (setting, share) in enumerate(shares.items())}
        self.heard: list[Setting] = []

    def measure(self, setting: Setting) -> tuple[MeasuredSetting, list[ScoredRow]]:
        self.heard.append(setting)
        return measured(setting, self.rows[setting]), self.rows[setting]

    def joined(self, base: Setting, *singles: Setting):
        return measure_joined(base, {one: self.rows[one] for one in (GREEDY, *singles)}, self.measure, seed=0)


def test_only_ways_that_go_together_are_joined_and_nothing_is_measured_twice():
    """A recipe refuses beams with samples or a bias; and a row that was measured alone costs as much again."""
    singles = [GREEDY, BEAMS, PENALTY, FUSED, MBR, BIAS]
    assert additions(PENALTY, GREEDY, singles) == [BOTH] and additions(FUSED, GREEDY, singles) == [BOTH]
    assert additions(BEAMS, GREEDY, singles) == []
    assert additions(MBR, GREEDY, singles) == additions(BIAS, GREEDY, singles) == [
        way(mbr_samples=8, mbr_temperature=0.7, repeat_bias=2.0)
    ]  # fmt: skip


def test_what_adds_is_added_and_what_does_not_is_not(capsys):
    shares = {GREEDY: 0.5, PENALTY: 0.3, FUSED: 0.4}
    helps = Dev({**shares, BOTH: 0.1}).joined(PENALTY, PENALTY, FUSED)
    assert [row.base for row in helps] == [PENALTY] and helps[0].added_points < -10 and helps[0].is_admitted
    setting, said = with_added(PENALTY, helps)
    assert setting == BOTH and "on the half of dev that did not choose it and takes 2 times as long" in said

    same = Dev({**shares, BOTH: 0.3}).joined(PENALTY, PENALTY, FUSED)
    setting, said = with_added(PENALTY, same)
    assert setting == PENALTY and said.endswith("That is not shown to add anything, so nothing is added.")

    rows = [measured(GREEDY, misheard(0.5, 0)), measured(PENALTY, misheard(0.3, 1), -20.0)]
    table = tuning._recommend("m", rows, joined=helps)
    assert table.recommended == BOTH and table.settings == tuple(rows)
    show_decoding(table)
    shown = capsys.readouterr().out
    assert "points added" in shown and "beam_size: 4, length_penalty: 1.4" in shown
    assert max(map(len, shown[: shown.index("Beam size")].splitlines())) <= 80


def test_nothing_is_added_to_greedy_decoding_and_it_costs_nothing():
    """Where no way alone is admitted, joined ones would be a second search for chance."""
    dev = Dev({GREEDY: 0.5, PENALTY: 0.5, FUSED: 0.5})
    assert dev.joined(GREEDY, PENALTY, FUSED) == [] and dev.heard == []
    assert with_added(GREEDY, []) == (GREEDY, "")


def test_one_half_chooses_and_the_other_decides():
    """The best of several on all of dev would be tested on what chose it."""
    rows = misheard(0.3, 1)
    parts = halves(groups_of(rows), [row.duration_s for row in rows], seed=0)
    good = scored_rows([row.said if part == 0 else "wrong" for row, part in zip(rows, parts, strict=True)])
    dev = Dev({GREEDY: 0.5, PENALTY: 0.3, FUSED: 0.4})
    dev.rows[BOTH] = good  # perfect on the half that chooses, wrong on the one that decides
    (row,) = joined = dev.joined(PENALTY, PENALTY, FUSED)
    assert row.chosen_by_wer_pct == 0 and row.added_points > 50 and best_added(PENALTY, joined) == row
    assert with_added(PENALTY, joined)[0] == PENALTY


def test_rows_that_were_added_to_another_setting_say_nothing_of_this_one():
    """Where the rule that admits has changed since, the table is read again without measuring."""
    dev = Dev({GREEDY: 0.6, BEAMS: 0.4, PENALTY: 0.5, FUSED: 0.5, BOTH: 0.1})
    made = dev.joined(PENALTY, BEAMS, PENALTY, FUSED)
    assert dev.heard == [BOTH], "what was added has nothing left to be added"
    assert with_added(PENALTY, made)[0] == BOTH and with_added(BEAMS, made) == (BEAMS, "")


@pytest.mark.parametrize("seed", range(3))
def test_halves_are_whole_groups_of_about_equal_length(seed: int):
    """A speaker who chose a setting would flatter it."""
    groups = [f"g{i % 9}" for i in range(90)]
    parts = halves(groups, [1.0 + i % 3 for i in range(90)], seed)
    assert len({(group, part) for group, part in zip(groups, parts, strict=True)}) == 9
    assert 30 <= sum(parts) <= 60
