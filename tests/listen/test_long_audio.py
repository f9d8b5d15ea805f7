"""Protects long clips from an aligner that is lost in them, where the recogniser knows where its words are."""

import numpy as np

from shibolet.listen.long_audio import align
from shibolet.listen.protocols import Alignment, Hearing

SPANS = np.array([[-0.1, 0.5], [0.6, 1.1], [2.1, 5.2]])
WORDS = ["a", "b", "c"]
CLIP = np.zeros(5 * 16000, np.float32)


class Nowhere:
    """Puts every word at the start and keeps what it was asked."""

    identity = "nowhere"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def align(self, clips, words):
        assert clips
        self.asked += [len(clip) for clip in clips]
        return [Alignment(starts_s=np.zeros(len(said)), ends_s=np.zeros(len(said))) for said in words]


def hearing(spans: np.ndarray) -> Hearing:
    return Hearing(hypothesis="", text_score=0.0, word_spans_s=spans)


def test_a_long_clip_takes_the_recognisers_times_within_the_clip() -> None:
    aligner = Nowhere()
    short = CLIP[:16000]
    found = align(
        aligner, [CLIP, short, CLIP], [WORDS] * 3, [hearing(SPANS), hearing(SPANS), hearing(SPANS + 0.1)], 4.0
    )
    assert aligner.asked == [len(short)]
    assert found[0].starts_s.tolist() == [0.0, 0.6, 2.1] and found[0].ends_s.tolist() == [0.5, 1.1, 5.0]
    assert found[1].starts_s.tolist() == [0.0] * 3
    assert found[2].starts_s.tolist() == [0.0, 0.7, 2.2]


def test_only_long_clips_ask_the_aligner_nothing() -> None:
    aligner = Nowhere()
    assert len(align(aligner, [CLIP], [WORDS], [hearing(SPANS)], 4.0)) == 1 and aligner.asked == []


def test_a_recogniser_without_times_leaves_a_long_clip_to_the_aligner() -> None:
    aligner = Nowhere()
    align(aligner, [CLIP], [WORDS], [hearing(SPANS[:0])], 4.0)
    assert aligner.asked == [len(CLIP)]
