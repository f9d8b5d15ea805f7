"""Aligning in pieces: every word once, cuts in the widest gaps, times put back where they belong."""

import numpy as np
import pytest

from shibolet.listen.long_audio import align_in_pieces, cut_words
from shibolet.listen.protocols import Alignment, Hearing

# Twelve words of 0.5 s; a second of silence after each fourth one, else 0.1 s.
STARTS = np.cumsum([0.3] + [0.5 + (1.0 if i % 4 == 3 else 0.1) for i in range(11)])
SPANS = np.stack([STARTS, STARTS + 0.5], 1)


class Evenly:
    """Spreads the words evenly over the clip and keeps what it was asked."""

    identity = "evenly"

    def __init__(self) -> None:
        self.asked: list[tuple[float, list[str]]] = []

    def align(self, clips, words):
        self.asked += [(len(clip) / 16000, said) for clip, said in zip(clips, words, strict=True)]
        edges = [np.linspace(0, len(clip) / 16000, len(said) + 1) for clip, said in zip(clips, words, strict=True)]
        return [Alignment(starts_s=e[:-1], ends_s=e[1:]) for e in edges]


def clip() -> np.ndarray:
    """Noise where the words are, silence elsewhere."""
    samples = 1e-4 * np.random.default_rng(0).standard_normal(int(16000 * (SPANS[-1, 1] + 0.5)))
    for start, end in SPANS:
        samples[int(start * 16000) : int(end * 16000)] *= 1000
    return samples.astype(np.float32)


def test_cuts_stand_in_the_widest_gaps() -> None:
    assert cut_words(SPANS, 4.0) == [0, 4, 8, 12]
    assert cut_words(SPANS, 100.0) == [0, 12]


@pytest.mark.parametrize("max_piece_s", [0.2, 1.0, 3.0, 6.0])
def test_every_word_is_in_one_piece(max_piece_s: float) -> None:
    cuts = cut_words(SPANS, max_piece_s)
    assert cuts[0] == 0 and cuts[-1] == 12 and (np.diff(cuts) > 0).all()


def test_times_of_pieces_are_put_together() -> None:
    words = [f"w{i}" for i in range(12)]
    lag = 0.25  # a recogniser that fires late
    heard = Hearing(hypothesis="", text_score=0.0, word_spans_s=SPANS + lag)
    aligner = Evenly()
    found = align_in_pieces(aligner, [clip()], [words], [heard], 4.0)[0]
    assert [word for _, said in aligner.asked for word in said] == words
    assert len(aligner.asked) == 3 and len(found.starts_s) == 12
    assert np.abs(found.starts_s - STARTS).max() < 0.6
    assert sum(duration for duration, _ in aligner.asked) == pytest.approx(len(clip()) / 16000, abs=1e-3)


def test_short_clips_and_recognisers_without_times_stay_whole() -> None:
    words = [f"w{i}" for i in range(12)]
    aligner = Evenly()
    align_in_pieces(aligner, [clip()], [words], [Hearing(hypothesis="", text_score=0.0)], 4.0)
    align_in_pieces(aligner, [clip()], [words], [Hearing(hypothesis="", text_score=0.0, word_spans_s=SPANS)], 60.0)
    assert [said for _, said in aligner.asked] == [words, words]
