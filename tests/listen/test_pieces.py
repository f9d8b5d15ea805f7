"""Pieces of a recording: all of it once, cut in pauses, whatever the blocks it comes in."""

from itertools import pairwise

import numpy as np
import pytest

from shibolet.listen import pieces as module
from shibolet.listen.pieces import cut_at_pauses, cut_stream, in_blocks

RATE = 16000


@pytest.mark.parametrize("duration_s", [0.0, 0.5, 10.0, 10.001, 33.3, 61.7])
@pytest.mark.parametrize("spans", [[], [(0.0, 400.0)], [(0.2, 4.0), (4.4, 11.0), (11.2, 30.0), (42.0, 55.0)]])
def test_pieces_are_the_whole_recording_once(duration_s, spans, monkeypatch):
    """Protects from words lost or doubled at a cut, and from pieces that are longer than the model may take."""
    spans = [(start, min(end, duration_s)) for start, end in spans if start < duration_s]
    monkeypatch.setattr(module, "speech_spans", lambda samples: spans)
    pieces = cut_at_pauses(np.zeros(round(duration_s * RATE), np.float32), max_piece_s=10.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == round(duration_s * RATE)
    assert all(left[1] == right[0] for left, right in pairwise(pieces))
    assert all(end - start <= 10 * RATE for start, end in pieces)
    assert len(pieces) == 1 or all(end > start for start, end in pieces)


def test_cuts_lie_in_the_longest_pause_that_is_not_early(monkeypatch):
    """A cut inside a word costs two words; a cut after every breath costs context."""
    spans = [(0.0, 2.0), (4.0, 7.0), (7.4, 9.0), (9.2, 14.0), (14.2, 17.0)]
    monkeypatch.setattr(module, "speech_spans", lambda samples: spans)
    pieces = cut_at_pauses(np.zeros(17 * RATE, np.float32), max_piece_s=10.0)
    assert [end / RATE for _, end in pieces] == [pytest.approx(7.2), 17.0]


def test_without_a_pause_the_parts_are_equal(monkeypatch):
    monkeypatch.setattr(module, "speech_spans", lambda samples: [(0.0, 24.0)])
    pieces = cut_at_pauses(np.zeros(24 * RATE, np.float32), max_piece_s=10.0)
    assert [(end - start) / RATE for start, end in pieces] == [8.0, 8.0, 8.0]


def test_without_a_pause_the_cut_lies_in_the_quietest_place_near(monkeypatch):
    """Protects words of somebody who does not pause."""
    monkeypatch.setattr(module, "speech_spans", lambda samples: [(0.0, 16.0)])
    samples = np.random.default_rng(0).standard_normal(16 * RATE).astype(np.float32)
    samples[int(9.0 * RATE) : int(9.12 * RATE)] *= 0.5
    samples[int(3.0 * RATE) : int(3.12 * RATE)] *= 0.1  # too far from the middle
    assert [end / RATE for _, end in cut_at_pauses(samples, 10.0)] == [pytest.approx(9.06, abs=0.02), 16.0]


def bursts(num_s: int, seed: int = 0) -> np.ndarray:
    """Noise in bursts of 1 to 6 s, louder and softer twice a second, with pauses of 0.6 to 2 s."""
    rng = np.random.default_rng(seed)
    loudness = np.full(num_s * RATE, 1e-3)
    at = 0.0
    while at < num_s:
        length = rng.uniform(1, 6)
        span = slice(int(at * RATE), int((at + length) * RATE))
        loudness[span] = np.abs(np.sin(2 * np.pi * np.arange(len(loudness[span])) / RATE)) + 1e-3
        at += length + rng.uniform(0.6, 2)
    return (0.1 * loudness * rng.standard_normal(len(loudness))).astype(np.float32)


@pytest.mark.parametrize("block_s", [0.37, 29.0, 120.0, 1000.0])
def test_a_stream_is_cut_into_all_of_itself(block_s, monkeypatch):
    """Protects from samples lost or doubled where one block meets the next, and from cuts in the middle of a burst."""
    monkeypatch.setattr(module, "BLOCK_S", 60.0)
    recording = bursts(400)
    step = int(block_s * RATE)
    blocks = (recording[i : i + step] for i in range(0, len(recording), step))
    pieces = list(cut_stream(blocks, 20.0))
    assert len(pieces) > 20 and all(0 < len(piece) <= 20 * RATE for _, piece in pieces)
    assert [start for start, _ in pieces] == [0, *np.cumsum([len(piece) for _, piece in pieces])[:-1]]
    assert np.array_equal(np.concatenate([piece for _, piece in pieces]), recording)
    edges = np.array([np.abs(recording[start - 160 : start + 160]).max() for start, _ in pieces[1:]])
    assert (edges < 0.01).all(), "every cut lies in a pause"


def test_a_stream_holds_one_block_in_memory(monkeypatch):
    """Protects from a reader that takes in the whole recording before the first piece."""
    monkeypatch.setattr(module, "BLOCK_S", 30.0)
    taken = []
    blocks = (taken.append(i) or bursts(10, seed=i) for i in range(100))
    next(cut_stream(blocks, 10.0))
    assert len(taken) <= 5
    assert list(cut_stream([], 10.0)) == []
    assert sum(len(block) for block in in_blocks(bursts(7))) == 7 * RATE
