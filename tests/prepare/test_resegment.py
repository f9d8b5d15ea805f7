"""Protects cuts from going through words, and words from being lost, doubled or given to another's audio."""

import random
from itertools import pairwise

import numpy as np
import pytest
from spoken import distance_s, raw_times, record

from shibolet.demo.channel import ChannelConfig, Condition
from shibolet.listen.word_times import longest_in_order, repair_times
from shibolet.prepare.config import PrepareConfig
from shibolet.prepare.resegment import Segment, owners, resegment, text_of
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

CONFIG = PrepareConfig()


def cut(samples, words, raw, config=CONFIG, hypothesis=None):
    text = " ".join(words)
    said = get_language("he").to_words(text)
    return resegment(samples, text, said, *raw, text if hypothesis is None else hypothesis, config)


def assert_owns_every_word_once(segments, num_words):
    assert [s.first for s in segments] == [0, *(s.end for s in segments[:-1])]
    assert segments[-1].end == num_words
    assert all(before.end_s <= after.start_s for before, after in pairwise(segments))


@pytest.mark.parametrize("jitter_s, outlier_frac", [(0.0, 0.0), (0.04, 0.05), (0.08, 0.05)])
def test_cuts_of_minutes_fall_between_words_though_times_are_quantised_and_some_wrong(jitter_s, outlier_frac):
    rng = np.random.default_rng(1)
    away_s, lost_s, total_s = [], 0.0, 0.0
    for num_phrases in (10, 20, 40, 60):
        samples, words, times = record(rng.integers(3, 9, num_phrases).tolist(), rng)
        raw = raw_times(times, rng, jitter_s=jitter_s, outlier_frac=outlier_frac)
        segments = cut(samples, words, raw)
        assert_owns_every_word_once(segments, len(words))
        pieces = [segment for segment in segments if segment.rule is None]
        assert all(0.5 <= piece.length_s <= 15 for piece in pieces)
        for before, after in pairwise(segments):
            away_s += [distance_s(moment_s, times, after.first) for moment_s in (before.end_s, after.start_s)]
        for piece in pieces:
            assert piece.start_s <= times[piece.first][0] + 0.1
            assert piece.end_s >= times[piece.end - 1][1] - 0.1
        lost_s += sum(segment.length_s for segment in segments if segment.rule)
        total_s += len(samples) / SAMPLE_RATE_HZ
    assert total_s > 200
    assert len(away_s) > 40
    assert np.mean(np.array(away_s) <= 0.1) >= 0.99
    assert lost_s <= 0.05 * total_s


def test_cuts_of_synthetic_speech_fall_between_words_in_both_domains(tmp_path):
    pytest.importorskip("espeakng_loader")
    from shibolet.demo.corpus import join_speech, sentences
    from shibolet.demo.lexicon import load_lexicon
    from shibolet.demo.synth import SpeechRequest, synthesise
    from shibolet.demo.voices import TRAIN_VOICES, draw_manner

    rng, noise = random.Random(2), np.random.default_rng(2)
    stream = sentences(rng, load_lexicon(), range(10))
    voices = [draw_manner(rng, variant) for variant in TRAIN_VOICES.variants[:3]]
    requests = [SpeechRequest(words=next(stream), voice=voice) for voice in voices for _ in range(20)]
    said = list(synthesise(requests, tmp_path, num_workers=1))
    away_s = []
    for first in range(0, len(said), 20):
        speech = join_speech(said[first : first + 20], noise)
        assert len(speech.samples) > 40 * SAMPLE_RATE_HZ
        times = [(word.start_s, word.end_s) for word in speech.words]
        for condition in (Condition.clean, Condition.whatsapp):
            samples = condition(noise, ChannelConfig(snr_db=(8, 15))).record(speech.samples, noise)
            segments = cut(samples, [word.word for word in speech.words], raw_times(times, noise))
            assert_owns_every_word_once(segments, len(times))
            assert sum(segment.rule is None for segment in segments) > 2
            for before, after in pairwise(segments):
                away_s += [distance_s(moment_s, times, after.first) for moment_s in (before.end_s, after.start_s)]
    assert len(away_s) > 30
    assert np.mean(np.array(away_s) <= 0.1) >= 0.99


def test_longer_pauses_are_preferred_and_half_of_each_stays_at_most():
    rng = np.random.default_rng(3)
    halves = [record([8, 8, 8], rng, pause_s=(0.3, 0.4)) for _ in range(2)]
    gap = rng.normal(0, 1e-3, SAMPLE_RATE_HZ).astype(np.float32)
    offset_s = (len(halves[0][0]) + len(gap)) / SAMPLE_RATE_HZ
    samples = np.concatenate([halves[0][0], gap, halves[1][0]])
    times = halves[0][2] + [(a + offset_s, b + offset_s) for a, b in halves[1][2]]
    before, after = cut(samples, halves[0][1] + halves[1][1], raw_times(times, rng, outlier_frac=0))
    assert (before.end, after.first) == (24, 24)
    assert before.end_s == pytest.approx(times[23][1] + CONFIG.edge_margin_s, abs=0.05)
    assert after.start_s == pytest.approx(times[24][0] - CONFIG.edge_margin_s, abs=0.05)


def test_a_stretch_without_a_pause_is_left_out_and_not_cut_through_a_word():
    rng = np.random.default_rng(4)
    samples, words, times = record([6, 6, 70, 6, 6], rng)
    segments = cut(samples, words, raw_times(times, rng, outlier_frac=0))
    assert_owns_every_word_once(segments, len(words))
    (lost,) = [segment for segment in segments if segment.rule]
    assert (lost.first, lost.end, lost.rule) == (12, 82, "no_pause")
    assert len(segments) > 1


def test_times_that_have_drifted_from_the_audio_cut_nothing():
    rng = np.random.default_rng(5)
    samples, words, times = record([5] * 12, rng)
    raw = raw_times([(1.06 * a + 1.5, 1.06 * b + 1.5) for a, b in times], rng)
    assert [segment.rule for segment in cut(samples, words, raw)] == ["times_disagree"]


def test_a_short_word_that_the_aligner_puts_into_the_pause_after_it_is_not_cut_off():
    rng = np.random.default_rng(13)
    samples, words, times = record([5] * 30, rng)
    moved = [i for i in range(4, 145, 5) if times[i][1] - times[i][0] < 0.29]  # last words of phrases
    raw = np.array(times)
    for i in moved:
        raw[i] = times[i + 1][0] - 0.2, times[i + 1][0]
    assert len(moved) > 2
    segments = cut(samples, words, (raw[:, 0], raw[:, 1]), PrepareConfig(max_duration_s=6))
    firsts = {segment.first for segment in segments}
    assert len(firsts) > 10
    assert not firsts & set(moved)


def test_a_pause_that_words_run_through_is_no_place_to_cut():
    """A drifting aligner says the first word of a phrase in the pause before it."""
    rng = np.random.default_rng(14)
    samples, words, times = record([5] * 30, rng, pause_s=(0.5, 0.6))
    raw = np.array(times)
    early = list(range(5, 145, 25))  # first words of every fifth phrase
    for i in early:
        pause_start_s = times[i - 1][1]
        raw[i - 1, 1] = pause_start_s - 0.15
        raw[i] = pause_start_s - 0.15, pause_start_s + 0.35
        raw[i + 1, 0] = pause_start_s + 0.35
    segments = cut(samples, words, (raw[:, 0], raw[:, 1]), PrepareConfig(max_duration_s=6))
    firsts = {segment.first for segment in segments}
    assert len(firsts) > 10
    assert not firsts & {i + 1 for i in early}


def test_a_piece_whose_words_have_no_place_in_order_is_left_out():
    rng = np.random.default_rng(6)
    samples, words, times = record([10] * 8, rng)
    starts, ends = raw_times(times, rng, outlier_frac=0)
    for i in range(31, 39):  # all words of the fourth phrase at one moment, but for those beside its pauses
        starts[i] = ends[i] = starts[35]
    segments = cut(samples, words, (starts, ends), PrepareConfig(max_duration_s=5.5))
    assert_owns_every_word_once(segments, len(words))
    assert [(s.first, s.end, s.rule) for s in segments if s.rule] == [(30, 40, "no_evidence")]
    assert len(segments) == 8


def test_raw_times_are_put_in_order_and_errors_are_told_from_imprecision():
    times = repair_times([0.0, 1.0, 9.0, 3.0, 4.0], [1.08, 2.0, 9.0, 3.4, float("nan")], 5.0)
    flat = np.stack([times.starts_s, times.ends_s], 1).ravel()
    assert (np.diff(flat) >= 0).all()
    assert times.start_kept.tolist() == [True, True, False, True, True]
    assert times.end_kept.tolist() == [True, True, False, True, False]
    assert times.ends_s[0] == pytest.approx(1.0)  # 80 ms of overlap are a class, not an error
    assert 2.0 < times.starts_s[2] < times.ends_s[2] < 3.0
    assert times.sound.tolist() == [True, True, False, True, False]


def test_constant_and_missing_times_are_evidence_of_nothing():
    assert not repair_times([2.0] * 5, [2.0] * 5, 4.0).sound.any()
    assert not repair_times([float("nan")] * 3, [float("nan")] * 3, 4.0).sound.any()


def test_the_longest_run_in_order_is_found():
    rng = np.random.default_rng(7)
    for _ in range(50):
        values = rng.integers(0, 6, 9)
        run = longest_in_order(values)
        assert (np.diff(run) > 0).all()
        assert (np.diff(values[run]) >= 0).all()
        subsets = [[i for i in range(9) if bits >> i & 1] for bits in range(512)]
        assert len(run) == max(len(s) for s in subsets if (np.diff(values[s]) >= 0).all())
    assert len(longest_in_order(np.array([]))) == 0


def test_silence_at_the_edges_is_trimmed_to_the_margin():
    rng = np.random.default_rng(8)
    samples, words, times = record([6], rng, pause_s=(2.0, 3.0))
    (whole,) = cut(samples, words, raw_times(times, rng, outlier_frac=0))
    assert whole.start_s == pytest.approx(times[0][0] - CONFIG.edge_margin_s, abs=0.08)
    assert whole.end_s == pytest.approx(times[-1][1] + CONFIG.edge_margin_s, abs=0.08)


@pytest.mark.parametrize("is_heard", [True, False])
def test_speech_before_the_first_word_goes_only_when_it_was_heard_to_be_more_than_the_text(is_heard):
    """What the recogniser did not hear beyond the text may be a first word that the aligner missed."""
    rng = np.random.default_rng(9)
    samples, words, times = record([4, 6], rng, pause_s=(0.5, 0.6))
    said, own = times[4:], words[4:]
    hypothesis = " ".join(words if is_heard else own)
    (whole,) = cut(samples, own, raw_times(said, rng, outlier_frac=0), hypothesis=hypothesis)
    if is_heard:
        assert times[3][1] < whole.start_s <= said[0][0]
    else:
        assert whole.start_s <= times[0][0]
    assert whole.end_s >= said[-1][1]


def test_speech_that_runs_into_the_first_word_is_never_cut():
    rng = np.random.default_rng(10)
    samples, words, times = record([10], rng)
    (whole,) = cut(samples, words[4:], raw_times(times[4:], rng, outlier_frac=0), hypothesis=" ".join(words))
    assert whole.start_s <= times[0][0]


def test_words_in_silence_and_a_clip_without_speech_change_nothing():
    rng = np.random.default_rng(11)
    samples, words, _ = record([4, 4], rng, pause_s=(1.5, 1.6))
    duration_s = len(samples) / SAMPLE_RATE_HZ
    in_silence = ([0.1] * 8, [0.2] * 8)
    for clip in (samples, np.zeros_like(samples)):
        (whole,) = cut(clip, words, in_silence)
        assert 0 <= whole.start_s < whole.end_s <= duration_s
        assert whole.start_s <= 1.5


@pytest.mark.parametrize(
    "text, words, pieces",
    [
        ("שלום, ילד. הולך - לבית!", 4, ["שלום, ילד.", "הולך - לבית!"]),
        ("- שלום ילד הולך לבית", 4, ["- שלום ילד", "הולך לבית"]),
        ("בית־ספר גדול וחדש", 4, ["בית ספר", "גדול וחדש"]),
    ],
)
def test_punctuation_stays_with_its_word(text, words, pieces):
    hebrew = get_language("he")
    tokens = hebrew.to_target(text).split()
    owner = owners(tokens)
    assert len(owner) == words == len(hebrew.to_words(text).tokens)
    halves = [Segment(0, 2, 0, 1), Segment(2, 4, 1, 2)]
    assert [text_of(tokens, owner, half) for half in halves] == pieces
    assert " ".join(pieces) == hebrew.to_target(text)


def test_no_cut_inside_a_token_of_two_words():
    rng = np.random.default_rng(12)
    samples, words, times = record([6, 6, 6, 6, 6, 6], rng)
    joined = " ".join(words[:18]) + "-" + " ".join(words[18:])  # the third pause is inside "a-b"
    assert len(owners(joined.split())) == len(words)
    config = PrepareConfig(max_duration_s=4.0)
    segments = resegment(
        samples, joined, get_language("he").to_words(joined), *raw_times(times, rng, outlier_frac=0), joined, config
    )
    assert_owns_every_word_once(segments, len(words))
    firsts = [segment.first for segment in segments]
    assert 18 not in firsts
    assert 12 in firsts and 24 in firsts


@pytest.mark.parametrize("at", [0, 4, 11])
def test_words_that_were_not_heard_go_with_their_own_audio_and_no_other(at):
    """A forced aligner puts a wrong sentence on the speech that is there as well as a right one."""
    rng = np.random.default_rng(15)
    samples, words, times = record([6] * 12, rng)
    heard = [*words[: 6 * at], *["גגגג"] * 6, *words[6 * at + 6 :]]
    segments = cut(samples, words, raw_times(times, rng, outlier_frac=0), hypothesis=" ".join(heard))
    assert_owns_every_word_once(segments, len(words))
    assert [(s.first, s.end, s.rule) for s in segments if s.rule] == [(6 * at, 6 * at + 6, "not_heard")]


def test_speech_that_the_text_does_not_have_goes_with_the_piece_that_it_lies_in():
    rng = np.random.default_rng(16)
    samples, words, times = record([6] * 12, rng)
    own = [i for i in range(72) if not 30 <= i < 36]
    raw = raw_times([times[i] for i in own], rng, outlier_frac=0)
    segments = cut(samples, [words[i] for i in own], raw, hypothesis=" ".join(words))
    assert {s.rule for s in segments if s.rule} == {"text_missing"}
    kept = [s for s in segments if s.rule is None]
    assert sum(s.end - s.first for s in kept) >= 66 - 12
    for segment in kept:
        assert segment.end_s <= times[30][0] or segment.start_s >= times[35][1]


def test_a_misheard_word_or_two_and_words_that_cannot_be_checked_cost_nothing():
    rng = np.random.default_rng(17)
    samples, words, times = record([2] * 24, rng, pause_s=(0.4, 0.9))
    words[10:14] = ["10", "20", "30", "40"]
    heard = [*words[:20], "גגגג", "גגגג", *words[22:]]
    segments = cut(samples, words, raw_times(times, rng, outlier_frac=0), hypothesis=" ".join(heard[:10] + heard[14:]))
    assert_owns_every_word_once(segments, len(words))
    assert [s.rule for s in segments if s.rule] == []
