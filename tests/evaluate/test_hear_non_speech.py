"""What is heard where nobody speaks: protects from words of speech counted as invented, and from echoes of chance."""

import pytest
from made_scores import ROUNDS

from shibolet.errors import RecipeError
from shibolet.evaluate.config import EvaluateConfig, NonSpeechConfig, NonSpeechSource
from shibolet.evaluate.non_speech import hear_non_speech, made_clips
from shibolet.records.documents.non_speech import MADE

CONFIG = EvaluateConfig(non_speech=NonSpeechConfig(clips_per_kind=2, clip_s=1))


class Parrot:
    """Writes two words for anything, and what it was told for what is loud; notes what it was told."""

    clips_at_once = 3

    def __init__(self, told: str) -> None:
        self.told = told

    def transcribe(self, clips):
        return ["thank you" + (f" {self.told}" if abs(clip).max() > 0.01 else "") for clip in clips]


@pytest.fixture
def hear(tmp_path):
    def run(context=(), is_speech=()):
        return hear_non_speech(
            Parrot, made_clips(CONFIG.non_speech, tmp_path), is_speech=is_speech, context=context, language="English",
            config=CONFIG, named=ROUNDS[1], identity="0",
        )  # fmt: skip

    return run


def test_words_a_minute_are_those_without_a_context_and_echoes_those_that_it_brings(hear):
    found = hear(["Dana", "thank you"])
    assert list(found.kinds) == list(MADE) and len(found.clips) == 8
    silence, noise = found.kinds["silence"], found.kinds["noise"]
    assert (silence.words, silence.words_per_minute, silence.with_words) == (4, 120.0, 2)
    assert (silence.echoes, silence.echo_rate) == (0, 0.0), "what it writes anyway is no echo"
    assert noise.words == 4 and noise.echoes == 2
    assert found.sentence == (
        "Round 2 writes 120.0 words a minute where nobody speaks; told 2 terms, it repeats some in 6 of 8 clips."
    )
    assert {clip.repeated for clip in found.clips if clip.kind == "noise"} == {("dana",)}


def test_without_a_context_nobody_is_asked_for_echoes(hear):
    found = hear()
    assert found.kinds["noise"].echoes is None and found.kinds["noise"].echo_rate is None
    assert all(clip.repeated is None for clip in found.clips)


def test_recordings_need_no_text_and_their_name_is_none_of_the_made_kinds(tmp_path):
    source = NonSpeechSource(name="street", manifest=tmp_path / "m.jsonl")
    assert source.columns.text == source.columns.audio
    with pytest.raises(RecipeError, match="'music' is the name of clips made from code"):
        NonSpeechSource(name="music", manifest=tmp_path / "m.jsonl")
