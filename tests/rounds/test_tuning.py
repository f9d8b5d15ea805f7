"""Decoding search: on dev and nothing else, every setting with its cost, and greedy unless a gain is shown."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from made_prepared import make_prepared

from shibolet.cli.tables import show_decoding
from shibolet.errors import DataError, RecipeError
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.documents.decoding import DecodingTable, MeasuredSetting, Setting
from shibolet.rounds import tuning
from shibolet.rounds.shared import open_round

GREEDY, BEAM = "אחת שתיים שלוש", "אחת שתיים ארבע"
MBR, LOOPED = "אחת שש ארבע", "אחת אחת אחת"
BEAMS = tuning.Grid(beam_sizes=[1, 2, 4], length_penalties=[0.5, 1.5], mbr_samples=[0])


class Settings(Engine):
    """Writes one text greedily and another with beams; notes the clips that it was given."""

    identity, clips_at_once = "settings", 100
    heard: list[int] = []  # noqa: RUF012

    def __init__(
        self, loaded, language, *, beam_size=1, length_penalty=1.0, mbr_samples=None, repeat_bias=0.0, **_
    ) -> None:
        self.text = GREEDY if beam_size == 1 else BEAM if length_penalty < 1 else ""
        self.text = MBR if mbr_samples else LOOPED if repeat_bias else self.text

    def write(self, clips):
        self.heard.append(len(clips))
        return [Written(self.text, "end") for _ in clips]


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Tunes on a run folder with so many dev utterances whose text is given; gives the table."""
    monkeypatch.setattr("shibolet.listen.transcribe.Transcriber", Settings)

    def run(
        text: str, num_dev: int = 12, name: str = "run", changes: Sequence[str] = (), grid: tuning.Grid = BEAMS
    ) -> DecodingTable:
        Settings.heard = []
        recipe = load_recipe("demo", changes)
        with open_round(recipe, tmp_path / name, "tune-decoding", lambda sentence: None) as current:
            if not current.folder.finished("prepare"):
                make_prepared(current.folder, text, num_dev)
            table = tuning.do_tune_decoding(current, "builtin:round1", grid)
            again = tuning.do_tune_decoding(current, "builtin:round1", grid)
            assert again == table
        return table

    return run


def test_every_setting_is_measured_on_dev_once(play, capsys):
    table = play(BEAM)
    assert [(row.beam_size, row.length_penalty) for row in table.settings] == [
        (1, 1.0), (2, 0.5), (2, 1.5), (4, 0.5), (4, 1.5),
    ]  # fmt: skip
    assert Settings.heard == [12] * 5, "dev has twelve utterances; nothing else may be heard, and nothing twice"
    assert [round(row.wer_pct) for row in table.settings] == [33, 0, 100, 0, 100]
    assert all(row.seconds > 0 and row.times_greedy > 0 for row in table.settings)
    show_decoding(table)
    assert "evaluate: {beam_size: " in capsys.readouterr().out


def test_dev_is_decoded_as_the_sets_are_but_for_the_settings_that_are_compared(play, monkeypatch, tmp_path):
    """Protects from a setting that is recommended for texts without names, or with the loops of greedy decoding."""
    (names := tmp_path / "names.txt").write_text("דנה", encoding="utf-8")
    made = []

    class Noted(Settings):
        def __init__(self, loaded, language, *, loop_bias, context, **settings) -> None:
            made.append((loop_bias, context))
            super().__init__(loaded, language, **settings)

    monkeypatch.setattr("shibolet.listen.transcribe.Transcriber", Noted)
    changes = ["evaluate.loop_bias=3", f"evaluate.context={{file: {names}}}"]
    play(BEAM, changes=changes)
    assert made == [(3, "דנה")] * 5
    names.write_text("נועם", encoding="utf-8")
    play(BEAM, changes=changes)
    assert made[5:] == [(3, "נועם")] * 5, "other names, another result"
    play(BEAM, changes=[*changes, "evaluate.context.candidate=false"])
    assert made[10:] == [(3, "")] * 5


def test_what_is_done_once_at_first_use_is_not_of_a_settings_cost(play, monkeypatch):
    """Each setting has an engine of its own, and on a GPU the first clips of one once paid for its graphs."""
    now = [0.0]

    def warm(engine: Settings) -> None:
        if not hasattr(engine, "is_warm"):
            engine.is_warm, now[0] = True, now[0] + 100

    def write(engine: Settings, clips: Sequence) -> list[Written]:
        warm(engine)
        now[0] += 2
        return [Written(engine.text, "end") for _ in clips]

    monkeypatch.setattr(Settings, "warm", warm, raising=False)
    monkeypatch.setattr(Settings, "write", write)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    table = play(BEAM)
    assert [(row.seconds, row.times_greedy) for row in table.settings] == [(2.0, 1.0)] * 5


def test_beams_are_recommended_where_the_gain_is_shown(play):
    table = play(BEAM)
    chosen = table.recommended
    assert chosen.beam_size in (2, 4) and chosen.length_penalty == 0.5
    assert "changes WER by -33.33 points on dev" in table.sentence and "the best of 5 on dev" in table.sentence
    assert table.optimism.points == 0, "the settings differ by far more than the choice can flatter"


def test_samples_and_bias_have_rows_of_their_own_and_are_recommended_by_the_same_rule(play, capsys):
    """Protects from a setting that is measured greedily, and from a recipe line that leaves half of it out."""
    grid = tuning.Grid(
        beam_sizes=[2], length_penalties=[0.5], mbr_samples=[4, 8], mbr_temperatures=[0.5, 1], repeat_biases=[2]
    )
    table = play(MBR, grid=grid)
    assert [str(row) for row in table.settings] == [
        "greedy decoding", "beam size 2 with length penalty 0.5",
        *(f"minimum Bayes risk over {num} samples at temperature {at}" for num in (4, 8) for at in ("0.5", "1")),
        "greedy decoding with repeat bias 2",
    ]  # fmt: skip
    assert [round(row.wer_pct) for row in table.settings] == [67, 33, 0, 0, 0, 0, 67]
    assert table.level_pct == pytest.approx(100 - 5 / 6), "all intervals hold together"
    assert table.recommended.mbr_samples in (4, 8) and table.recommended.beam_size == 1
    assert table.sentence.startswith("Minimum Bayes risk over ") and "changes WER by -66.67 points" in table.sentence
    show_decoding(table)
    shown = capsys.readouterr().out
    assert "evaluate: {mbr_samples: " in shown and "mbr_temperature: " in shown
    assert max(map(len, shown.splitlines()[:9])) <= 80


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"beam_sizes": [0]}, "beam sizes start at 1, not 0"),
        ({"mbr_samples": [1]}, "numbers of samples start at 2, not 1"),
        ({"mbr_temperatures": [0.7, 0]}, "temperatures are over 0, not 0"),
        ({"repeat_biases": [-1]}, "repeat biases are over 0, not -1"),
        ({"ngram_weights": [0.2, -0.1]}, "weights of an n-gram are over 0, not -0.1"),
    ],
)
def test_numbers_that_are_no_way_to_decode_are_refused(grid, sentence):
    with pytest.raises(RecipeError, match=sentence):
        tuning.Grid(**grid).settings()


@pytest.mark.parametrize(
    ("grid", "with_ngram", "sentence"),
    [
        ({"ngram_weights": [0.3]}, False, "the weights of an n-gram that were asked for: there is no n-gram; run"),
        ({"ngram_weights": [0.3], "beam_sizes": [1]}, True, "the weights of an n-gram that were asked for: beams add"),
        ({"length_penalties": [0.0], "beam_sizes": [1]}, False, "the length penalties that were asked for: they are"),
        ({"mbr_temperatures": [1.0], "mbr_samples": [0]}, False, "the temperatures that were asked for: they are"),
    ],
)
def test_what_was_asked_for_and_has_no_row_is_refused(grid, with_ngram, sentence):
    """Protects from a table that is silent on the very weight that somebody wanted to know of."""
    with pytest.raises(RecipeError, match=f"^tune-decoding: no row would have {sentence}"):
        tuning.Grid(**grid).settings(with_ngram)


def test_what_nobody_asked_for_may_have_no_row():
    """Protects from a refusal of the command without options where the round has no n-gram."""
    assert len(tuning.Grid(beam_sizes=[1], mbr_samples=[0]).settings()) == 1
    for with_ngram in (False, True):  # 0 asks for none, as it does of samples
        rows = tuning.Grid(ngram_weights=[0]).settings(with_ngram)
        assert rows == tuning.Grid().settings() and not any(row.ngram_weight for row in rows)


def test_greedy_stays_where_none_is_better_or_none_is_shown(play):
    table = play(GREEDY, name="a")
    assert table.recommended == tuning.GREEDY
    assert table.sentence == "No setting has a lower WER than greedy decoding."
    few = play(BEAM, num_dev=1, name="b")
    assert few.recommended == tuning.GREEDY and few.sentence.startswith("No difference shown")


def test_a_beam_that_is_as_good_does_not_have_the_lowest_wer_for_a_slow_start_of_greedy(play):
    """The first setting pays for loading: what the table says of a tie once hung on the clock."""
    greedy = play(GREEDY).settings[0].model_copy(update={"seconds": 9.0})
    beam = greedy.model_copy(update={"beam_size": 2, "seconds": 1.0})
    assert tuning._recommend("m", [greedy, beam]).sentence == "No setting has a lower WER than greedy decoding."


def made_rows(play, *changes: dict) -> list[MeasuredSetting]:
    """Greedy decoding as it was measured, and settings that differ from it as is said."""
    greedy = play(GREEDY).settings[0]
    return [greedy, *(greedy.model_copy(update=change) for change in changes)]


def test_a_shown_gain_is_taken_also_where_another_setting_has_a_lower_wer_without_evidence(play):
    """It was once said of two settings, one of which had shown it, that no difference is shown."""
    rows = made_rows(
        play,
        {"beam_size": 4, "wer_pct": -2.0, "points": -2.0, "interval_points": (-5.0, 1.0)},
        {"beam_size": 2, "wer_pct": -1.0, "points": -1.0, "interval_points": (-1.5, -0.5)},
        {"beam_size": 8, "wer_pct": -0.5, "points": -0.5, "interval_points": (-0.9, -0.1)},
    )
    table = tuning._recommend("m", rows)
    assert table.recommended.beam_size == 2
    assert table.sentence.startswith("Beam size 2 with length penalty 1 changes WER by -1.00 points on dev")
    assert "chosen as the best of 3 on dev" in table.sentence, "what was no candidate is not counted as one"
    assert table.sentence.endswith(
        " The lowest WER, -2.00 points, has beam size 4 with length penalty 1, but its interval includes 0."
    )
    assert tuning._recommend("m", rows[:2]).recommended == tuning.GREEDY


def test_equal_settings_go_by_what_they_write_at_once_and_not_by_the_clock(play):
    """Protects from another recipe line at another start of the same measurement."""
    gain = {"wer_pct": -1.0, "points": -1.0, "interval_points": (-1.5, -0.5)}
    rows = made_rows(
        play,
        {"mbr_samples": 8, "mbr_temperature": 0.7, "seconds": 0.1, **gain},
        {"beam_size": 4, "seconds": 1.0, **gain},
        {"beam_size": 2, "length_penalty": 1.4, "seconds": 3.0, **gain},
        {"beam_size": 2, "length_penalty": 0.6, "seconds": 2.0, **gain},
    )
    assert tuning._recommend("m", rows).recommended == Setting(**rows[3].model_dump(include=Setting.model_fields))


def test_a_table_of_an_older_rule_is_read_by_this_one_without_measuring_again(tmp_path, play):
    """A grid takes hours; the sentence of an older version must not stay for that."""
    table = play(BEAM)
    path = tmp_path / "run" / tuning.STAGE / tuning.TABLE
    with open_round(load_recipe("demo"), tmp_path / "run", "tune-decoding", lambda sentence: None) as current:
        table.model_copy(update={"recommended": tuning.GREEDY, "sentence": "No difference shown."}).write(path)
        current.folder.seal(tuning.STAGE, current.folder.inputs(tuning.STAGE))
        Settings.heard = []
        assert tuning.do_tune_decoding(current, "builtin:round1", BEAMS) == table and Settings.heard == []
    assert DecodingTable.read(path) == table


def test_what_the_plan_expects_of_beams_is_said_beside_what_was_measured(play):
    """So that a reader sees at once whether the roadmap's figure holds."""
    table = play(BEAM, changes=["evaluate.expected_beam_points=[0.3, 0.5]"])
    assert table.expected_points == (0.3, 0.5)
    assert table.sentence.endswith(" The plan expects beams to gain 0.3 to 0.5 points.")
    assert "changes WER by -33.33 points" in table.sentence


def test_another_expectation_is_said_without_measuring_again(tmp_path, play):
    """The grid takes hours, and what the roadmap quotes changes none of it."""
    before = play(BEAM)
    Settings.heard = []
    recipe = load_recipe("demo", ["evaluate.expected_beam_points=[1, 2]"])
    for _ in range(2):  # the second finds it as the first left it
        with open_round(recipe, tmp_path / "run", "tune-decoding", lambda sentence: None) as current:
            table = tuning.do_tune_decoding(current, "builtin:round1", BEAMS)
        assert Settings.heard == []
        assert table.sentence == f"{before.sentence} The plan expects beams to gain 1 to 2 points."
        assert table.settings == before.settings and table.expected_points == (1, 2)


def test_without_dev_there_is_nothing_to_tune_on(play):
    with pytest.raises(DataError, match="no dev split"):
        play(BEAM, num_dev=0)
