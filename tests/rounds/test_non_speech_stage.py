"""Clips without speech in a round: protects from other clips for each model, another prompt, and from hearing twice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf

from shibolet.compare.config import CompareConfig
from shibolet.compare.non_speech import non_speech_change
from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.candidate import Candidate, Hypotheses, Model, named
from shibolet.records.documents.non_speech import MADE, NonSpeech
from shibolet.rounds.non_speech import do_non_speech, read_non_speech
from shibolet.rounds.shared import Round, open_round

RATE_HZ = 16_000


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Asks both rounds; gives what they wrote, what each call was told and the open round."""
    calls = []

    def write(name: str, num: int, **fields: str) -> str:
        for i in range(num):
            sf.write(tmp_path / f"{name}{i}.wav", np.full(RATE_HZ, (i + 1) / 100), RATE_HZ)
        rows = [{"id": f"{name}{i}", "audio": f"{name}{i}.wav", **fields} for i in range(num)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    class Ears(Engine):
        clips_at_once, identity = 64, "ears"

        def __init__(self, label: str, told: str) -> None:
            self.label, self.told = label, told

        def write(self, clips):
            calls.append((self.label, self.told, len(clips)))
            return [Written("שלום " + self.told if self.label == "round2" else "", "end")] * len(clips)

    monkeypatch.setattr(Round, "identity", lambda self, model: model)
    monkeypatch.setattr(
        Round, "transcriber", lambda self, model, label, language, context="": Ears(label, f"{context}")
    )  # fmt: skip
    text, english = "אחת שתיים שלוש ארבע", write("en", 5, text="one two", language="English")
    sets = f"{{name: he, manifest: {write('he', 3, text=text)}}}, {{name: en, manifest: {english}, language: English}}"
    street = write("street", 2)
    base = [
        f"evaluate.sets=[{sets}]", "evaluate.non_speech.clips_per_kind=2", "evaluate.non_speech.clip_s=1",
        f"evaluate.non_speech.sources=[{{name: street, manifest: {street}}}]", "evaluate.non_speech.foreign_clips=3",
    ]  # fmt: skip

    def run(*changes: str, reads_training: bool = False) -> SimpleNamespace:
        calls.clear()
        with open_round(load_recipe("demo", [*base, *changes]), tmp_path / "run", "evaluate", print) as current:
            if reads_training:
                current.join(current.recipe.data.train)
            for title in ("Round 1", "Round 2"):
                do_non_speech(current, Candidate(named(title), Model(title)))
            other = do_non_speech(current, Candidate(named("other"), Hypotheses(())))
            assert other is None, "hypotheses of others hear nothing"
            found = read_non_speech(current, ["round1", "round2"])
        return SimpleNamespace(found=found, calls=list(calls))

    run.folder = tmp_path
    return run


def test_both_models_hear_the_same_clips_without_and_with_words_of_the_sets(play):
    played = play()
    first, second = played.found
    assert list(first.kinds) == [*MADE, "street", "speech: en"] and first.is_speech == ("speech: en",)
    assert [kind.clips for kind in first.kinds.values()] == [2, 2, 2, 2, 2, 3]
    assert [clip.id for clip in first.clips] == [clip.id for clip in second.clips]
    assert sorted(first.context) == sorted("אחת שתיים שלוש ארבע".split()) == sorted(second.context)
    told = ", ".join(first.context)
    assert played.calls == [("round1", "", 13), ("round1", told, 13), ("round2", "", 13), ("round2", told, 13)]
    assert (second.kinds["street"].words, second.kinds["street"].echoes) == (2, 2)
    assert (first.kinds["silence"].words, first.kinds["silence"].echoes) == (0, 0)


def test_recordings_without_speech_are_not_those_of_a_training_source_of_that_name(play):
    """The clips of the training set would be heard as silence, and its words counted as invented."""
    street = play.folder / "street.jsonl"
    name = load_recipe("demo").data.train[0].name
    played = play(
        f"evaluate.non_speech.sources=[{{name: {name}, manifest: {street}}}]",
        f"data.train=[{{name: {name}, manifest: {play.folder / 'he.jsonl'}}}]",
        reads_training=True,
    )
    assert [clip.id for clip in played.found[0].clips if clip.kind == name] == [f"{name}/street0", f"{name}/street1"]
    with pytest.raises(RecipeError, match=r"non_speech\.sources: street named twice"):
        play(f"evaluate.non_speech.sources=[{', '.join([f'{{name: street, manifest: {street}}}'] * 2)}]")


def test_what_was_heard_is_not_heard_again_until_something_changes(play):
    play()
    assert play().calls == []
    assert len(play("evaluate.non_speech.clips_per_kind=3").calls) == 4
    assert len(play("evaluate.max_new_tokens_per_s=9", "evaluate.non_speech.clips_per_kind=3").calls) == 4


def test_the_recipes_own_list_is_what_the_second_pass_is_told(play):
    names = play.folder / "names.txt"
    names.write_text("דנה\nתל אביב\n", encoding="utf-8")
    played = play(f"evaluate.context={{file: {names}}}")
    assert [told for _, told, _ in played.calls] == ["", "דנה, תל אביב"] * 2
    names.write_text("נועם\n", encoding="utf-8")
    assert [told for _, told, _ in play(f"evaluate.context={{file: {names}}}").calls] == ["", "נועם"] * 2


def test_recordings_that_cannot_be_read_are_told_before_anything_is_trained(tmp_path):
    """Protects from a training that is paid for before a source of its evaluation is found to be unusable."""
    street = f"[{{name: street, manifest: {tmp_path / 'none.jsonl'}}}]"
    config = load_recipe("demo", ["evaluate.sets=[]", f"evaluate.non_speech.sources={street}"])
    with open_round(config, tmp_path / "run", "run", print) as current, pytest.raises(DataError, match=r"none\.jsonl"):
        current.require_sets()


def test_it_can_be_switched_off_and_go_without_a_second_pass(play):
    assert [told for _, told, _ in play("evaluate.non_speech.num_terms=0").calls] == ["", ""]
    played = play("evaluate.non_speech=null")
    assert played.calls == [] and played.found is None, "what lies there is of another recipe"


def test_a_document_of_a_round_is_read_as_it_was_written(play):
    _, second = play().found
    path = play.folder / "run" / "non-speech" / "round2" / "non_speech.json"
    assert NonSpeech.read(path) == second


def test_where_a_server_has_one_of_the_two_neither_is_told_and_both_are_compared(play):
    """One that was told names and one that was not have no common clips: `compare` would end in an error."""
    played = play("evaluate.servers.candidate={url: 'http://localhost:1'}")
    assert [told for _, told, _ in played.calls] == ["", ""]
    assert [one.context for one in played.found] == [(), ()]
    change = non_speech_change(played.found, CompareConfig())
    assert change.clips == 10 and change.echoes is None


def test_a_server_is_told_no_names():
    with pytest.raises(RecipeError, match="a server does not take names"):
        EvaluateConfig(context={"file": "x"}, servers={"candidate": {"url": "http://localhost:1"}})
    EvaluateConfig(context={"file": "x", "candidate": False}, servers={"candidate": {"url": "http://localhost:1"}})


def test_a_folder_of_audio_needs_no_texts(play):
    """Recordings of a street have none, and an empty one would be refused as a row of speech is."""
    (wavs := play.folder / "wavs").mkdir()
    for name in ("street0.wav", "street1.wav"):
        (wavs / name).write_bytes((play.folder / name).read_bytes())
    played = play(f"evaluate.non_speech.sources=[{{name: car, manifest: {wavs}}}]")
    assert played.found[0].kinds["car"].clips == 2
