"""What is heard where nobody speaks: protects from words of speech counted as invented, and from echoes of chance."""

from dataclasses import replace

import pytest
from made_scores import ROUNDS

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import EvaluateConfig, NonSpeechConfig, NonSpeechSource
from shibolet.evaluate.non_speech import hear_non_speech, made_clips
from shibolet.listen.engine import Engine, Written
from shibolet.records.documents.non_speech import MADE

CONFIG = EvaluateConfig(non_speech=NonSpeechConfig(clips_per_kind=2, clip_s=1))


class Parrot(Engine):
    """Writes two words for anything, and what it was told for what is loud; notes what it was told."""

    clips_at_once = 3

    def __init__(self, told: str) -> None:
        self.told = told

    def write(self, clips):
        told = [f" {self.told}" if abs(clip).max() > 0.01 else "" for clip in clips]
        return [Written(f"thank you{more}", "end") for more in told]


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
    assert silence.echoes == 0, "what it writes anyway is no echo"
    assert noise.words == 4 and noise.echoes == 2
    assert found.sentence == (
        "Round 2 writes 120.0 words a minute where nobody speaks; told 2 terms, it repeats some in 6 of 8 clips."
    )
    assert {clip.repeated for clip in found.clips if clip.kind == "noise"} == {("dana",)}


def test_clips_of_one_recording_or_speaker_or_file_are_one_group(tmp_path):
    """The interval takes groups for independent, and clips cut from one street are not."""
    first, second, third, *others = made_clips(CONFIG.non_speech, tmp_path)
    one_file = [replace(one, audio=replace(others[0].audio, start_s=i / 2, end_s=i / 2 + 0.5))
                for i, one in enumerate(others[:2])]  # fmt: skip
    clips = [replace(first, recording="a"), replace(second, recording="a", speaker="b"), replace(third, speaker="b"),
             *one_file, others[2]]  # fmt: skip
    found = hear_non_speech(
        Parrot, clips, is_speech=(), context=(), language="English", config=CONFIG, named=ROUNDS[1], identity="0"
    )
    a, b, c, d, e, alone = [clip.group for clip in found.clips]
    assert a == b == c != d == e != alone != a


def test_what_cannot_be_decoded_is_left_out_and_no_silence(tmp_path):
    """Broken files would count as clips in which a model rightly wrote nothing, and lower its words a minute."""
    clips = [replace(one, source="street") for one in made_clips(CONFIG.non_speech, tmp_path)[:3]]

    def run():
        return hear_non_speech(
            Parrot, clips, is_speech=(), context=["Dana"], language="English", config=CONFIG, named=ROUNDS[1],
            identity="0",
        )  # fmt: skip

    for one in clips[:2]:
        (tmp_path / f"{one.id}.wav").write_bytes(b"no audio")
    found = run()
    assert [clip.id for clip in found.clips] == [clips[2].id] and found.kinds["street"].clips == 1
    assert [one.id for one in found.failures] == [one.id for one in clips[:2]]
    assert found.sentence.startswith("Round 2 writes 120.0 words a minute")
    assert f"Clips that cannot be decoded and are left out: 2; the first is '{clips[0].id}'" in found.sentence
    (tmp_path / f"{clips[2].id}.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match="no clip of 'street' can be decoded"):
        run()


def test_without_a_context_nobody_is_asked_for_echoes(hear):
    found = hear()
    assert found.kinds["noise"].echoes is None
    assert all(clip.repeated is None for clip in found.clips)


def test_recordings_need_no_text_and_their_name_is_none_of_the_made_kinds(tmp_path):
    source = NonSpeechSource(name="street", manifest=tmp_path / "m.jsonl")
    assert not source.has_texts
    with pytest.raises(RecipeError, match="'music' is the name of clips made from code"):
        NonSpeechSource(name="music", manifest=tmp_path / "m.jsonl")
