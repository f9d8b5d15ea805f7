"""Averages of models: dev chooses, limits refuse, and what is written is what was scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from made_prepared import make_prepared
from toy_family import FAMILY, Model

from shibolet.cli import tables
from shibolet.errors import DataError, RecipeError
from shibolet.listen.engine import Engine, Written
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.outline import FAMILIES
from shibolet.recipe import load_recipe
from shibolet.records.documents.average import Average
from shibolet.records.files import read_json, write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import run_of, stage_of
from shibolet.rounds import averaging
from shibolet.rounds.shared import open_round

WORDS = "אחת שתיים שלוש ארבע חמש שש שבע שמונה תשע עשר".split()
TEXT = " ".join(WORDS)


class Heard(Engine):
    """Writes as many wrong words as the mark in a model's weights says; in English ten times as many."""

    clips_at_once = 100
    scored: list[float] = []  # noqa: RUF012
    told: list[tuple] = []  # noqa: RUF012

    def __init__(self, loaded, language, **settings) -> None:
        self.identity, self.mark = loaded.identity, mark_of(loaded.model)
        self.told.append((language, settings))
        wrong = min(10, round(abs(self.mark) if language == "Hebrew" else 10 * self.mark))
        self.text = " ".join([*WORDS[: 10 - wrong], *["x"] * wrong])

    def write(self, clips):
        self.scored.append(self.mark)
        return [Written(self.text, "end") for _ in clips]


def mark_of(model) -> float:
    return model.head.weight[0, 0].item()


@pytest.fixture
def model_of(tmp_path, monkeypatch):
    """A folder of a toy model with a mark in its weights; its WER on dev is that mark, in tenths."""
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")

    def make(mark: float, name: str) -> str:
        model = Model(SimpleNamespace(encoder_layers=1, decoder_layers=1, letters="ab", model_type="toy"))
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(mark)
        FAMILY.save(LoadedModel(model, "ab", None, tmp_path, ""), tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Averages in a run folder with twelve dev utterances; gives the table."""
    monkeypatch.setattr("shibolet.listen.transcribe.Transcriber", Heard)
    Heard.scored, Heard.told = [], []

    def run(how, name="one", changes=(), swapped=False) -> Average:
        with open_round(load_recipe("demo", changes), tmp_path / "run", "average", lambda sentence: None) as current:
            if not current.folder.prepared.exists():
                make_prepared(current.folder, TEXT, 12)
            return averaging.do_average(current, name, how(current))

    return run


def soup_of(names, method="uniform"):
    return lambda current: averaging.Averaging(sources=averaging.models(current, names), method=method)


def test_a_uniform_soup_is_written_as_it_was_scored_and_done_once(play, model_of, tmp_path, capsys):
    names = [model_of(2.0, "a"), model_of(-1.0, "b")]
    made = play(soup_of(names))
    assert [one.name for one in made.tried] == ["alone2", "alone1", "mean"] and made.chosen == "mean"
    assert [round(one.dev.wer_pct) for one in made.tried] == [10, 20, 0]
    path = tmp_path / "run" / "average" / "one" / "model"
    written = load_recogniser(str(path))
    assert mark_of(written.model) == 0.5 and written.identity == made.tried[-1].identity
    assert "mean is written: dev WER 0.00%, -10.00 points against the best model by itself" in made.sentence
    assert made.optimism is None, "dev has not chosen a mean of all"
    assert all("is not known here" in note for note in made.notes) and len(made.notes) == 2
    Heard.scored = []
    assert play(soup_of(names)) == made and Heard.scored == []
    run = run_of(path)
    assert run == RunFolder(tmp_path / "run") and stage_of(path, run) == "average/one"
    assert sorted(file.name for file in path.parent.iterdir()) == ["average.json", "model", "scores"]
    tables.show(made)
    assert "chosen" in capsys.readouterr().out
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="changed since 'average/one' wrote it"):
        load_recogniser(str(path))


def test_an_average_is_decoded_as_its_scores_say(play, model_of, tmp_path):
    """Scores would say of samples, a bias and a style, and be of greedy decoding without any."""
    changes = ["evaluate.mbr_samples=4", "evaluate.mbr_temperature=0.7", "evaluate.repeat_bias=2.5",
               "data.train.0.style=lower case", "evaluate.styles.candidate=lower case"]  # fmt: skip
    play(soup_of([model_of(2.0, "a"), model_of(-1.0, "b")]), changes=changes)
    (recorded,) = {
        (one["mbr_samples"], one["mbr_temperature"], one["repeat_bias"], one["styles"]["candidate"])
        for path in (tmp_path / "run" / "average" / "one" / "scores").rglob("scores.json")
        if (one := read_json(path)["inputs"]["config"])
    }
    for _, told in Heard.told:
        assert tuple(told[key] for key in ("mbr_samples", "mbr_temperature", "repeat_bias", "style")) == recorded


def test_another_n_gram_in_the_same_file_makes_another_average(play, model_of, tmp_path):
    """By its path alone the old table would stand for an n-gram that nobody has any more."""
    path, how = tmp_path / "a.arpa", soup_of([model_of(2.0, "a"), model_of(-1.0, "b")])
    changes = ["evaluate.beam_size=2", f"evaluate.ngram={{file: {path}, weight: 0.3}}"]
    for text, anew in (("one", True), ("one", False), ("two", True)):
        path.write_text(text)
        Heard.scored = []
        play(how, changes=changes)
        assert bool(Heard.scored) == anew
    moved = path.rename(tmp_path / "b.arpa")
    Heard.scored = []
    play(how, changes=[changes[0], f"evaluate.ngram={{file: {moved}, weight: 0.3}}"])
    assert not Heard.scored, "a file that was moved is the same one"


def test_a_greedy_soup_takes_what_does_not_raise_dev_wer_in_the_order_of_dev_wer(play, model_of):
    """Marks 1 and -3 make -1, which is as good; with 8 the mean would be worse, and it stays out."""
    names = [model_of(8.0, "a"), model_of(-3.0, "b"), model_of(1.0, "c")]
    made = play(soup_of(names, "greedy"))
    assert made.chosen == "soup2-3" and [one.name for one in made.tried][:3] == ["alone3", "alone2", "alone1"]
    chosen = next(one for one in made.tried if one.name == made.chosen)
    assert chosen.weights == (0.0, 0.5, 0.5) and chosen.dev.points == 0.0
    assert "no gain is shown" in made.sentence


def test_a_greedy_soup_of_models_that_spoil_each_other_is_the_best_one(play, model_of, tmp_path):
    made = play(soup_of([model_of(9.0, "a"), model_of(1.0, "b")], "greedy"))
    assert made.chosen == "alone2" and "the best model by itself, 10.00%" in made.sentence
    assert mark_of(load_recogniser(str(tmp_path / "run" / "average" / "one" / "model")).model) == 1.0


@pytest.fixture
def english(tmp_path):
    """Changes that give the recipe an English set."""
    rows = []
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.full(8000, 0.01 * (i + 1)), 16000)
        rows.append({"id": f"e{i}", "audio": str(tmp_path / f"{i}.wav"), "text": TEXT, "recording": f"r{i}"})
    write_jsonl(tmp_path / "english.jsonl", rows)
    manifest = f"{{name: english, manifest: {tmp_path / 'english.jsonl'}, language: English}}"
    return [f"evaluate.sets=[{manifest}]"]


def test_sets_that_a_limit_is_about_are_heard_whatever_is_named(english, tmp_path):
    """With --on alone a limit on English would hold back nothing, and nobody would say so."""
    manifest = tmp_path / "english.jsonl"
    sets = ", ".join(f"{{name: {name}, manifest: {manifest}, language: {name}}}" for name in ("English", "Hebrew"))
    names = []
    for place, limits in enumerate(([], ["compare.limits={English: 2}"])):
        recipe = load_recipe("demo", [f"evaluate.sets=[{sets}]", *limits])
        with open_round(recipe, tmp_path / f"run{place}", "average", lambda sentence: None) as current:
            for asked in ([], ["Hebrew"], ["Hebrew", "English"]):
                names.append([one.name for one in averaging.sets_between(current, asked)])
    both = ["Hebrew", "English"]
    assert names == [["English"], ["Hebrew"], both, ["English"], both, both]


def between(base, tuned, alphas):
    def how(current):
        return averaging.Averaging(
            sources=averaging.models(current, [base, tuned]), method="interpolation", alphas=alphas,
            sets=averaging.other_language_sets(current),
        )  # fmt: skip

    return how


def test_an_interpolation_shows_both_languages_and_a_limit_decides_where_it_stops(play, model_of, english):
    """Without a limit the lowest dev WER is chosen, whatever happens to the other language."""
    bases = model_of(8.0, "base"), model_of(0.0, "tuned")
    free = play(between(*bases, (0.5, 1.0)), changes=english)
    assert [one.weights for one in free.tried] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    assert [round(one.dev.wer_pct) for one in free.tried] == [80, 40, 0] and free.chosen == "alpha1"
    assert set(free.tried[0].sets) == {"english"}
    assert free.tried[0].sets["english"].points == 0 and free.tried[2].sets["english"].points == -100


def test_the_n_gram_of_the_recipe_decodes_no_other_language(play, model_of, english, tmp_path):
    """A Hebrew language model beside English speech costs it words, and a limit would be broken by it alone."""
    path = tmp_path / "a.arpa"
    path.write_text("made up")
    changes = [*english, "evaluate.beam_size=2", f"evaluate.ngram={{file: {path}, weight: 0.3}}"]
    play(between(model_of(8.0, "base"), model_of(0.0, "tuned"), (1.0,)), changes=changes)
    assert {(language, told["ngram"], told["beam_size"]) for language, told in Heard.told} == {
        ("Hebrew", path, 2), ("English", None, 2)
    }  # fmt: skip
    scores = tmp_path / "run" / "average" / "one" / "scores" / "alpha1"
    recorded = [
        read_json(scores / name / "scores.json")["inputs"]["config"].get("ngram") for name in ("dev", "set english")
    ]
    assert recorded[0]["weight"] == 0.3 and recorded[1] is None


def test_limits_hold_alphas_back(play, model_of, english, monkeypatch):
    base, tuned = model_of(0.0, "base"), model_of(-0.5, "tuned")

    class Forgets(Heard):
        """Dev falls with the mark's size, English is lost with it."""

        def __init__(self, loaded, language, **_) -> None:
            super().__init__(loaded, language)
            wrong = round(5 + 10 * self.mark) if language == "Hebrew" else round(-10 * self.mark)
            self.text = " ".join([*WORDS[: 10 - wrong], *["x"] * wrong])

    monkeypatch.setattr("shibolet.listen.transcribe.Transcriber", Forgets)
    how = between(base, tuned, (0.4, 1.0))
    free = play(how, "free", english)
    assert free.chosen == "alpha1" and [round(one.sets["english"].wer_pct) for one in free.tried] == [0, 20, 50]
    held = play(how, "held", [*english, "compare.limits={English: 25}"])
    assert held.chosen == "alpha0.4" and [one.beyond for one in held.tried] == [(), (), ("english",)]
    assert any("which helped to choose" in note for note in held.notes)
    strict = play(how, "strict", [*english, "compare.limits={English: 5}"])
    assert strict.chosen == "alpha0" and "the base itself (alpha 0), 50.00%" in strict.sentence


def test_a_model_that_was_trained_on_this_runs_dev_set_is_refused(play, model_of, tmp_path):
    """The dev set hangs on the seed: that of one run is training data of another, and a soup would be chosen by it."""
    other = RunFolder(tmp_path / "other")
    make_prepared(other, TEXT, 12, swapped=True)
    model_of(1.0, "other/train/final")
    with pytest.raises(DataError, match=r"was trained on 12 of the 12 dev utterances of .* \(prepare.seed\)"):
        play(soup_of([str(other.final), model_of(2.0, "a")]))
    same = RunFolder(tmp_path / "same")
    make_prepared(same, TEXT, 12)
    model_of(1.0, "same/train/final")
    made = play(soup_of([str(same.final), model_of(2.0, "b")]))
    assert "was trained on the data of another run" in made.notes[0]


def test_what_can_be_no_average_is_refused_before_anything_is_scored(play, model_of):
    a = model_of(1.0, "a")
    for names, sentence in (([a], "takes two models or more"), ([a, a], "are the same one")):
        with pytest.raises(RecipeError, match=sentence):
            play(soup_of(names))
    with pytest.raises(RecipeError, match=r"--alpha 1\.5: it goes from 0"):
        play(between(a, model_of(2.0, "b"), (1.5,)))
    with pytest.raises(RecipeError, match="cannot name a folder"):
        play(soup_of([a, model_of(3.0, "c")]), name="../x")
    assert Heard.scored == []
