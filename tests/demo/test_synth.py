"""Protects the demo from speech that changes between runs, from wrong word times and from voices that do not exist."""

import random
import sys

import numpy as np
import pytest

from shibolet.demo import synth
from shibolet.demo.lexicon import load_lexicon
from shibolet.demo.sentences import sample_sentence
from shibolet.demo.synth import SHARD_REQUESTS, Speaker, SpeechRequest, Voice, synthesise
from shibolet.demo.voices import ROUND1_VOICES, TEST_VOICES, TRAIN_VOICES, draw_manner
from shibolet.errors import DataError, ShiboletError
from shibolet.speech.audio import SAMPLE_RATE_HZ

SENTENCE = ("הנהג", "שלנו", "חוזר", "מהחנות")


def requests(count: int) -> list[SpeechRequest]:
    rng = random.Random(0)
    voices = TRAIN_VOICES.variants + TEST_VOICES.variants
    return [
        SpeechRequest(
            words=tuple(entry.spelling for entry in sample_sentence(rng, load_lexicon())),
            voice=draw_manner(rng, rng.choice(voices)),
        )
        for _ in range(count)
    ]


def test_the_groups_of_voices_are_disjoint_and_every_voice_speaks_without_clipping():
    groups = [ROUND1_VOICES, TRAIN_VOICES, TEST_VOICES]
    assert [len(group.variants) for group in groups] == [41, 12, 12]
    variants = [variant for group in groups for variant in group.variants]
    assert len(set(variants)) == len(variants)
    speaker = Speaker()
    for variant in variants:
        speech = speaker.speak(SENTENCE, Voice(variant=variant))
        assert 1.5 < len(speech.samples) / SAMPLE_RATE_HZ < 4, variant
        assert np.abs(speech.samples).max() < 0.96, variant
        assert 0.03 < np.sqrt(np.mean(speech.samples**2)) < 0.08, variant


def test_words_have_times_in_order_and_sound_in_them():
    speech = Speaker().speak(SENTENCE, Voice(variant="m3"))
    assert speech.samples.dtype == np.float32
    assert tuple(word.word for word in speech.words) == SENTENCE
    assert speech.words[-1].end_s <= len(speech.samples) / SAMPLE_RATE_HZ
    for word, following in zip(speech.words, speech.words[1:]):
        assert word.start_s < word.end_s == following.start_s
    for word in speech.words:
        part = speech.samples[round(word.start_s * SAMPLE_RATE_HZ) : round(word.end_s * SAMPLE_RATE_HZ)]
        assert np.sqrt(np.mean(part**2)) > 0.01, word


def test_word_times_are_where_the_words_are():
    """A pause before the third word moves it, and not the second, as far as the sound moves."""
    speaker, voice = Speaker(), Voice(variant="m3")
    slow = speaker.speak(SENTENCE, Voice(variant="m3", rate_wpm=100)).words
    fast = speaker.speak(SENTENCE, voice).words
    ratios = [(a.end_s - a.start_s) / (b.end_s - b.start_s) for a, b in zip(slow, fast)]
    assert min(ratios) > 1.2


def test_speech_depends_on_the_requests_alone(tmp_path):
    wanted = requests(SHARD_REQUESTS + 6)
    first = list(synthesise(wanted, tmp_path / "one", num_workers=2))
    second = list(synthesise(wanted, tmp_path / "two", num_workers=1))
    assert len(first) == len(wanted) and len(list((tmp_path / "one").iterdir())) == 2
    for request, a, b in zip(wanted, first, second):
        assert tuple(word.word for word in a.words) == request.words
        assert a.words == b.words and np.array_equal(a.samples, b.samples)


def test_a_finished_shard_is_kept_and_a_missing_one_is_made_again(tmp_path):
    wanted = requests(SHARD_REQUESTS + 2)
    list(synthesise(wanted, tmp_path, num_workers=2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept, lost = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    lost.unlink()
    time_of_kept = kept.stat().st_mtime_ns
    calls = []
    list(synthesise(wanted, tmp_path, num_workers=2, on_shard=lambda: calls.append(1)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert kept.stat().st_mtime_ns == time_of_kept
    assert len(calls) == 2


def test_an_unknown_voice_is_an_error(tmp_path):
    """espeak-ng itself says nothing and speaks with its default voice."""
    with pytest.raises(DataError, match="no voice variant 'nobody'"):
        Speaker().speak(SENTENCE, Voice(variant="nobody"))
    with pytest.raises(ShiboletError, match="no voice variant 'nobody'"):
        synthesise([SpeechRequest(words=SENTENCE, voice=Voice(variant="nobody"))], tmp_path, num_workers=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_word_is_an_error_that_names_it():
    with pytest.raises(DataError, match="בלהבלה"):
        Speaker().speak(("בלהבלה",), Voice(variant="m3"))


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(synth, "_start_espeak", synth._start_espeak.__wrapped__)  # as in a new process
    with pytest.raises(ShiboletError, match=r"pip install 'shibolet\[demo\]'"):
        synth.Speaker()
