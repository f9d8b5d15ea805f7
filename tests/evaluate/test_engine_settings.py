"""The one list of what a transcriber is made with: what `identity` records and what is decoded must not come apart."""

import inspect

from shibolet.evaluate.config import EvaluateConfig, NgramConfig
from shibolet.listen.transcribe import Transcriber

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
    drawn = EvaluateConfig(mbr_samples=4, mbr_temperature=0.7, repeat_bias=2.0, batch_utterances=8)
    told = drawn.engine_settings()
    assert [told[key] for key in ("mbr_samples", "mbr_temperature", "repeat_bias")] == [4, 0.7, 2.0]


def test_dev_is_scored_greedily_whatever_the_recipe_decodes_with(tmp_path):
    """Beams in a training would cost many times as much, and early stopping would mean something else."""
    for config in (
        EvaluateConfig(beam_size=3, length_penalty=0.5, ngram=NgramConfig(file=tmp_path / "a.arpa", weight=0.3)),
        EvaluateConfig(mbr_samples=4, mbr_temperature=0.7, repeat_bias=2.0),
    ):
        assert config.greedy == EvaluateConfig()
    assert EvaluateConfig(batch_utterances=8, beam_size=2).greedy == EvaluateConfig(batch_utterances=8)
