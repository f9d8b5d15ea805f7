"""Protects the matrix of damage: copies that are damaged as they say, harmless ones that are not, chance repeats."""

import numpy as np
import pytest
import soundfile as sf

from shibolet.audit.damage import Clipping, NoSpeech, Original, Part, Pool, Shifted, copies, matrix
from shibolet.audit.hearing import Clip
from shibolet.records.utterance import AudioRef
from shibolet.speech.augment import reverberate
from shibolet.speech.text import get_language

WORDS = "הילד הלך הביתה אחרי הצהריים וראה כלב גדול ליד הדלת הירוקה של השכנים בבוקר ילדה שמחה קנתה לחם טרי".split()


def original(i: int, num_words: int = 8, recording: int | None = None) -> Original:
    rng = np.random.default_rng(i)
    words = tuple(WORDS[j] for j in rng.permutation(len(WORDS))[:num_words])
    clip = Clip(key=f"u{i}", audio=AudioRef(path=f"{i}.wav"), words=words, verifiable=(True,) * num_words)
    return Original(clip=clip, recording=f"r{i // 4 if recording is None else recording}", speaker=f"s{i // 8}")


@pytest.fixture
def originals() -> list[Original]:
    return [original(i) for i in range(24)]


FOREIGN = (AudioRef(path="en.wav"),)


def made(originals: list[Original], foreign=FOREIGN) -> dict[str, list[Clip]]:
    return copies(matrix("Hebrew"), originals, Pool(originals, "Hebrew", foreign), seed=0)


def test_every_row_makes_copies_and_each_is_another_clip(originals):
    by_key = {o.clip.key: o.clip for o in originals}
    for row, clips in made(originals).items():
        assert clips, row
        for clip in clips:
            source = by_key[clip.key.removeprefix(f"{row}/")]
            is_changed = clip.words != source.words or clip.audio != source.audio or clip.change_audio is not None
            assert is_changed or row.startswith("spelling:"), row


def test_a_copy_depends_on_its_own_row_and_clip_alone(originals):
    rows = matrix("Hebrew")
    some = [row for row in rows if row.kind in ("words_dropped", "text_head_cut")]
    pool = Pool(originals, "Hebrew")
    alone = copies(some, originals[3:5], pool, seed=0)
    whole = copies(rows, originals, pool, seed=0)
    for row in some:
        wanted = {clip.key: clip.words for clip in whole[row.name]}
        assert {clip.key: clip.words for clip in alone[row.name]}.items() <= wanted.items()


def test_texts_are_cut_dropped_and_changed_by_as_much_as_they_say(originals):
    found = made(originals)
    for clip in found["text_tail_cut:25%"]:
        assert clip.words == original(int(clip.key.split("/u")[1])).words[:6]
    for clip in found["text_head_cut:50%"]:
        assert clip.words == original(int(clip.key.split("/u")[1])).words[4:]
    assert {len(clip.words) for clip in found["run_dropped:40%"]} == {5}
    assert {len(clip.words) for clip in found["words_inserted:20%"]} == {10}
    for clip in found["reordered:40%"]:
        own = original(int(clip.key.split("/u")[1])).words
        assert sorted(clip.words) == sorted(own) and clip.words[:3] == own[-3:]


def test_swapped_texts_are_of_another_clip_and_mostly_other_words(originals):
    texts = {o.words for o in originals}
    speaker_of = {o.clip.key: o.speaker for o in originals}
    by_text = {o.words: o.speaker for o in originals}
    found = made(originals)
    for which in ("random", "same speaker", "nearest length"):
        for clip in found[f"swapped:{which}"]:
            own = original(int(clip.key.split("/u")[1])).words
            assert clip.words in texts and sum(word not in own for word in clip.words) >= 0.6 * len(clip.words)
    for clip in found["swapped:same speaker"]:
        assert by_text[clip.words] == speaker_of[clip.key.rpartition("/")[2]]


def test_short_clips_are_left_out_of_what_they_are_too_short_for():
    originals = [original(i, num_words=2) for i in range(6)]
    found = made(originals)
    assert not found["text_tail_cut:50%"] and not found["words_dropped:1 word"]
    assert len(found["no_speech:silence"]) == 6


def test_without_foreign_audio_its_row_is_empty_and_nothing_stands_in(originals):
    assert made(originals, foreign=())["other_language:audio"] == []


def test_respelled_texts_are_the_same_words_where_the_normaliser_says_so(originals):
    found, rules = made(originals), get_language("Hebrew")
    for name in ("punctuation", "niqqud", "maqaf"):
        for clip in found[f"spelling:{name}"]:
            assert clip.words == original(int(clip.key.split("/u")[1])).words, name
    for name in ("defective", "full"):
        changed = [c.words != original(int(c.key.split("/u")[1])).words for c in found[f"spelling:{name}"]]
        assert any(changed), name
    assert rules.respellings["niqqud"]("שלום") != "שלום"


def test_audio_changes(tmp_path):
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    assert np.array_equal(Part(0.25, 1.0)(samples, rng), samples[4000:])
    sf.write(tmp_path / "next.wav", np.full(16000, 0.5), 16000)
    late = Shifted(0.5, AudioRef(path=str(tmp_path / "next.wav")))(samples, rng)
    assert len(late) == 16000 and np.array_equal(late[:8000], samples[8000:]) and late[8000:].min() > 0.49
    clipped = Clipping(0.05)(samples, rng)
    assert np.mean(np.abs(clipped) >= np.abs(clipped).max() - 1e-6) == pytest.approx(0.05, abs=0.002)
    for what in ("silence", "noise", "tones"):
        assert len(NoSpeech(what)(samples, rng)) == 16000 and np.isfinite(NoSpeech(what)(samples, rng)).all()
    wet = reverberate(samples, 0.3, rng)
    assert np.mean(wet**2) == pytest.approx(np.mean(samples**2), rel=1e-3) and len(wet) == 16000
    assert not reverberate(np.zeros(100, np.float32), 0.3, rng).any()


def test_changes_are_values_so_that_what_was_heard_can_be_kept_under_them():
    changes = [clip.change_audio for clips in made([original(i) for i in range(8)]).values() for clip in clips]
    assert any(changes) and not any(" at 0x" in repr(change) for change in changes)
