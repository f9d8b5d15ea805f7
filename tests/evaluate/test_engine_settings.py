"""The one list of what a transcriber is made with: what `identity` records and what is decoded must not come apart."""

import inspect
import json

import pytest

from shibolet.evaluate.config import EvaluateConfig, NgramConfig
from shibolet.listen.transcribe import Transcriber
from shibolet.recipe import load_recipe
from shibolet.records.candidate import Model
from shibolet.rounds.scorers import _of_model
from shibolet.rounds.shared import Round, SourceData, open_round

NOT_OF_A_RECIPE = {"self", "loaded", "language", "share", "keep_encoded"}  # of how it runs, not of what it writes


def test_a_transcriber_is_told_everything_that_a_recipe_says(tmp_path):
    """A setting that is recorded and not passed on is a score of something else."""
    assert EvaluateConfig().engine_settings().keys() == (
        inspect.signature(Transcriber).parameters.keys() - NOT_OF_A_RECIPE
    )
    beams = EvaluateConfig(beam_size=3, length_penalty=0.5, ngram=NgramConfig(file=tmp_path / "a.arpa", weight=0.3))
    told = beams.engine_settings("lower case")
    assert told["style"] == "lower case" and told["ngram"] == tmp_path / "a.arpa"
    assert [told[key] for key in ("beam_size", "length_penalty", "ngram_weight")] == [3, 0.5, 0.3]
    drawn = EvaluateConfig(mbr_samples=4, mbr_temperature=0.7, repeat_bias=2.0, loop_bias=3.0, batch_utterances=8)
    told = drawn.engine_settings()
    assert [told[key] for key in ("mbr_samples", "mbr_temperature", "repeat_bias", "loop_bias")] == [4, 0.7, 2, 3]


def test_what_is_recorded_of_names_is_read_as_it_was_written(tmp_path):
    """A tuple is a list once it was read: nothing scored with names would ever be found as done."""
    (file := tmp_path / "names.txt").write_text("Dana\nOmer", encoding="utf-8")
    recorded = EvaluateConfig(context={"file": file}).identity(())
    assert recorded["context"]["terms"] == ["Dana", "Omer"] and json.loads(json.dumps(recorded)) == recorded


def test_dev_is_scored_greedily_whatever_the_recipe_decodes_with(tmp_path):
    """Beams in a training would cost many times as much, and early stopping would mean something else."""
    for config in (
        EvaluateConfig(beam_size=3, length_penalty=0.5, ngram=NgramConfig(file=tmp_path / "a.arpa", weight=0.3)),
        EvaluateConfig(mbr_samples=4, mbr_temperature=0.7, repeat_bias=2.0, loop_bias=3.0),
    ):
        assert config.greedy == EvaluateConfig()
    assert EvaluateConfig(batch_utterances=8, beam_size=2).greedy == EvaluateConfig(batch_utterances=8)


def test_the_n_gram_of_the_recipe_is_beside_its_own_language_alone(tmp_path, monkeypatch):
    """A Hebrew language model costs English speech words, and a limit on what it may lose would be broken by it."""
    (file := tmp_path / "a.arpa").write_text("made up")
    (tmp_path / "m.jsonl").write_text("", encoding="utf-8")
    given = [f"evaluate.sets.{i}={{name: {name}, manifest: {tmp_path / 'm.jsonl'}, language: {language}}}"
             for i, (name, language) in enumerate((("own", "null"), ("same", "he"), ("other", "en")))]  # fmt: skip
    changes = [
        "evaluate.sets=[{}, {}, {}]",
        *given,
        "evaluate.beam_size=2",
        f"evaluate.ngram={{file: {file}, weight: 0.3}}",
    ]
    told, recorded = {}, {}

    def write(engine, data, *, set_name, config, **settings):
        told[set_name], recorded[set_name] = engine, config.engine_settings()
        raise Heard

    monkeypatch.setattr("shibolet.listen.open.open_engines", lambda executor, model, language, **settings: settings)
    monkeypatch.setattr("shibolet.evaluate.stage.evaluate_set", write)
    monkeypatch.setattr(Round, "identity", lambda current, model: model)
    monkeypatch.setattr(Round, "read", lambda current, source: SourceData([], [], source.name))
    with open_round(load_recipe("demo", changes), tmp_path / "run", "evaluate", lambda sentence: None) as current:
        for source in current.recipe.evaluate.sets:
            with pytest.raises(Heard):
                _of_model(current, current.names[0], Model("builtin:round1"), source)
    assert {name: settings["ngram"] for name, settings in told.items()} == {"own": file, "same": file, "other": None}
    assert recorded == told and told["other"]["beam_size"] == 2


class Heard(Exception):
    """What is decoded, and how, is known then."""
