"""Protects the matrix of damage: copies that are damaged as they say, harmless ones that are not, chance repeats."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf

from shibolet.audit.audio_changes import Babble, Clipping, NoSpeech, Part, Shifted
from shibolet.audit.clip import Clip
from shibolet.audit.damage import (
    BABBLE_VOICES,
    Original,
    Pool,
    Row,
    babbled,
    copies,
    matrix,
)
from shibolet.records.utterance import AudioRef
from shibolet.speech.augment import reverberate
from shibolet.speech.text import get_language

WORDS = "הילד הלך הביתה אחרי הצהריים וראה כלב גדול ליד הדלת הירוקה של השכנים בבוקר ילדה שמחה קנתה לחם טרי שלושה".split()


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


def test_a_number_that_is_spelled_out_is_written_in_digits_and_every_word_can_be_checked(originals):
    """Digits in place of any other word would be another text, and no harmless copy."""
    found = made(originals)["spelling:digits"]
    with_number = [o for o in originals if "שלושה" in o.words]
    assert len(found) == len(with_number) and 0 < len(found) < len(originals)
    for clip, own in zip(found, with_number, strict=True):
        assert clip.words == tuple("3" if word == "שלושה" else word for word in own.words) and all(clip.verifiable)


BABBLED = [Row(kind="in_babble", harmless=True, change=babbled(10.0))]


def test_babble_is_other_speakers_of_the_data_and_never_the_clip_s_own(originals):
    """A speaker behind himself says words that belong to the clip's voice."""
    found = copies(BABBLED, originals, Pool(originals, "Hebrew"), seed=0)["in_babble"]
    speaker_of = {o.clip.key: o.speaker for o in originals}
    assert len(found) == len(originals)
    for clip in found:
        key, others = clip.key.removeprefix("in_babble/"), clip.change_audio.others
        assert len(set(others)) == BABBLE_VOICES and speaker_of[key] not in {speaker_of[other] for other in others}
        assert [ref.path for ref in clip.change_audio.mixes_in] == [f"{other[1:]}.wav" for other in others]
    unknown = [Original(clip=o.clip, recording=o.recording, speaker=None) for o in originals]
    for clip in copies(BABBLED, unknown, Pool(unknown, "Hebrew"), seed=0)["in_babble"]:
        assert clip.key.removeprefix("in_babble/") not in clip.change_audio.others
    alone = [Original(clip=o.clip, recording=o.recording, speaker="one") for o in originals]
    assert copies(BABBLED, alone, Pool(alone, "Hebrew"), seed=0)["in_babble"] == []


def test_babble_lies_ten_decibels_under_the_clip_and_depends_on_its_chance(tmp_path):
    rng, refs = np.random.default_rng(1), []
    for i, gain in enumerate((0.5, 0.01)):  # one voice is 34 dB over the other: both have to be there
        sf.write(tmp_path / f"{i}.wav", gain * rng.uniform(-1, 1, 8000 + 4000 * i), 16000)
        refs.append(AudioRef(path=str(tmp_path / f"{i}.wav")))
    samples = (0.1 * rng.standard_normal(24000)).astype(np.float32)

    def behind(voices, seed=2) -> np.ndarray:
        change = Babble(tuple("abc"[: len(voices)]), 10.0, tuple(voices))
        mixed = change(samples, np.random.default_rng(seed))
        assert len(mixed) == len(samples) and mixed.dtype == np.float32
        return (mixed - samples).astype(np.float64)

    both = behind(refs)
    for added in (both, behind(refs[:1]), behind(refs[1:])):
        assert 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(
            10, abs=0.05
        )
    assert np.array_equal(both, behind(refs)) and not np.allclose(both, behind(refs, seed=3), atol=1e-3)
    gone = AudioRef(path=str(tmp_path / "gone.wav"))
    assert np.array_equal(behind([*refs, gone]), both), "a file that cannot be read is that clip's fault alone"
    assert not behind([gone]).any()


def test_what_was_heard_in_babble_is_known_wherever_the_voices_lie(originals):
    """The same data in another folder would be heard again, or two kinds of babble would pass as one."""
    [first, *rest] = copies(BABBLED, originals, Pool(originals, "Hebrew"), seed=0)["in_babble"]
    babble = first.change_audio
    moved = Babble(babble.others, 10.0, tuple(AudioRef(path=f"/elsewhere/{ref.path}") for ref in babble.mixes_in))
    hashes = [f"hash {i}" for i in range(len(babble.mixes_in))]
    ids = [replace(first, change_audio=change).content_id("a", hashes) for change in (babble, moved)]
    assert ids[0] == ids[1] and ".wav" not in repr(babble)
    assert replace(first, change_audio=moved).content_id("a", [*hashes[:-1], "another voice"]) != ids[0]
    for other in (
        Babble(babble.others, 5.0, babble.mixes_in),
        Babble(babble.others[::-1], 10.0, babble.mixes_in),
        None,
    ):
        assert replace(first, change_audio=other).content_id("a", hashes) != ids[0]
    assert len({repr(clip.change_audio) for clip in rest}) > 1
