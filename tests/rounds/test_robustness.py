"""Dose curves in a round: protects from points of different utterances, from hearing twice, and from a bill unsaid."""

import json

import numpy as np
import pytest
import soundfile as sf

from shibolet.cli.tables import show_robustness
from shibolet.errors import DataError
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.candidate import Candidate, Model, named
from shibolet.records.documents.robustness import Robustness
from shibolet.report.page import write_report
from shibolet.rounds import robustness
from shibolet.rounds.shared import Round, open_round

RATE_HZ, SAID = 16_000, "שלום עולם"
SETTINGS = [
    "robustness={noises: [white], snr_db: [0, 20, 40], bitrate_kbps: [], packet_loss_pct: [], utterances_per_set: 10}",
    "compare.bootstrap_samples=500",
]


class Ears(Engine):
    """Understands a low tone as long as noise has less than this share of the power above 4 kHz; notes its clips."""

    clips_at_once = 4

    def __init__(self, most: float, heard: list[str], label: str) -> None:
        self.most, self.heard, self.label = most, heard, label

    def write(self, clips):
        self.heard += [self.label] * len(clips)
        if len(self.heard) > 55 and "stop" in self.heard:
            raise KeyboardInterrupt
        return [Written(SAID if self._noise(clip) < self.most else "", "end") for clip in clips]

    @staticmethod
    def _noise(clip) -> float:
        power = np.abs(np.fft.rfft(clip)) ** 2
        return power[len(power) // 2 :].sum() / power.sum()


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Makes the curves of two models, one of which stands more noise; gives them, what was heard and what was told."""
    rows = []
    for i in range(14):
        duration_s = 40 if i == 3 else 0.5  # of minutes: in pieces
        sf.write(tmp_path / f"{i}.wav", 0.3 * np.sin(np.arange(int(duration_s * RATE_HZ)) * (0.05 + 0.01 * i)), RATE_HZ)
        rows.append({"id": f"c{i}", "audio": f"{i}.wav", "text": SAID, "recording": f"r{i}"})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    heard, told = [], []
    stands = {"round1": 0.003, "round2": 0.1}
    monkeypatch.setattr(Round, "identity", lambda current, model: model)
    monkeypatch.setattr(Round, "transcriber", lambda current, model, label, _: Ears(stands[label], heard, label))
    pair = tuple(Candidate(named(title), Model(title)) for title in ("Round 1", "Round 2"))
    monkeypatch.setattr(robustness, "candidates_of", lambda current: pair)

    def run(*changes: str) -> tuple[Robustness, list[str], list[str]]:
        heard[:] = [one for one in heard if one == "stop"]
        told.clear()
        sets = ["evaluate.sets=[]", f"evaluate.sets.0={{name: held, manifest: {tmp_path / 'test.jsonl'}}}"]
        recipe = load_recipe("demo", [*sets, *SETTINGS, *changes])
        with open_round(recipe, tmp_path / "run", "robustness", told.append) as current:
            return robustness.do_robustness(current), list(heard), told

    run.heard, run.path = heard, tmp_path / "run"
    return run


def test_a_gain_that_is_there_in_noise_alone_is_seen_there_alone(play, capsys):
    made, heard, told = play()
    clean, mild, noisy, drowned = made.points
    assert [point.said for point in made.points] == [
        "clean",
        "white noise 40 dB",
        "white noise 20 dB",
        "white noise 0 dB",
    ]
    rates = [[errors.rate for errors in point.block.wer.sides] for point in made.points]
    assert rates == [[0, 0], [0, 0], [1, 0], [1, 1]]
    assert noisy.block.wer.shown == "better" and noisy.beyond_points == -100 and clean.beyond_points is None
    assert mild.beyond_points == drowned.beyond_points == 0
    assert made.kinds["white"].wer.delta_points == pytest.approx(-100 / 3)
    assert made.utterances_by_set == {"held": 10} and len(heard) == 80, "ten short ones at four doses by two"
    assert "4 doses x 10 utterances x 2 models = 0.01 h of audio to hear; how fast" in " ".join(told)
    assert any("Round 2 is better at white noise 20 dB." in said for said in made.sentences)
    show_robustness(made)
    said = capsys.readouterr().out
    assert "beyond" in said and "-100.0 to" in said and "all white noise" in said
    assert play()[1] == [], "nothing is heard again"
    page = write_report(play.path).read_text(encoding="utf-8")
    assert 'id="robustness"' in page and "White noise, SNR in dB" in page


def test_another_n_gram_in_the_same_file_is_heard_anew(play):
    """By its path alone the old curves would stand for an n-gram that nobody has any more."""
    path = play.path.parent / "a.arpa"
    changes = ["evaluate.beam_size=2", f"evaluate.ngram={{file: {path}, weight: 0.3}}"]
    for text, anew in (("one", True), ("one", False), ("two", True)):
        path.write_text(text)
        assert bool(play(*changes)[1]) == anew


def test_what_was_heard_before_a_stop_is_not_heard_again(play):
    play.heard.append("stop")
    with pytest.raises(KeyboardInterrupt):
        play()
    before = len(play.heard) - 1
    play.heard.clear()
    made, heard, _ = play()
    assert 52 <= before < 80 and len(heard) <= 40, "of eight copies of the set at least four were whole"
    assert [errors.rate for errors in made.points[2].block.wer.sides] == [1, 0]


def test_another_dose_is_another_curve_and_recordings_of_minutes_alone_make_none(play):
    play()
    made, heard, told = play("robustness.snr_db=[20]")
    assert len(made.points) == 2 and len(heard) == 40 and "snr_db" in told[0]
    with pytest.raises(DataError, match=r"no utterance of evaluate\.sets is of 0\.4 s"):
        play("evaluate.max_piece_s=0.4")
