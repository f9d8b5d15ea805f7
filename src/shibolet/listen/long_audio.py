"""Aligning clips that are longer than an aligner is good for: in pieces, cut where a recogniser hears a pause."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from shibolet.listen.protocols import Aligner, Alignment, Hearing


def align_in_pieces(
    aligner: Aligner,
    clips: Sequence[np.ndarray],
    words: Sequence[list[str]],
    hearings: Sequence[Hearing],
    max_piece_s: float,
) -> list[Alignment]:
    """Alignments of mono 16 kHz clips; one of over `max_piece_s` is aligned piece by piece, its times put together.

    A recogniser that gives no word times leaves long clips whole.
    """
    jobs: list[tuple[int, float, np.ndarray, list[str]]] = []  # clip, offset in seconds, samples, words
    for index, (clip, said, hearing) in enumerate(zip(clips, words, hearings, strict=True)):
        cuts, spans = [0, len(said)], hearing.word_spans_s
        if len(clip) / 16000 > max_piece_s and len(spans):
            cuts = cut_words(spans, max_piece_s)
        for first, last in pairwise(cuts):
            start_s = _boundary(spans, first) if first else 0.0
            end_s = _boundary(spans, last) if last < len(said) else len(clip) / 16000
            jobs.append((index, start_s, clip[int(start_s * 16000) : int(end_s * 16000)], said[first:last]))
    aligned = aligner.align([samples for _, _, samples, _ in jobs], [said for *_, said in jobs])
    parts: list[list[tuple[float, Alignment]]] = [[] for _ in clips]
    for (index, offset_s, _, _), alignment in zip(jobs, aligned, strict=True):
        parts[index].append((offset_s, alignment))
    return [
        Alignment(
            starts_s=np.concatenate([a.starts_s + offset for offset, a in own]),
            ends_s=np.concatenate([a.ends_s + offset for offset, a in own]),
        )
        for own in parts
    ]


def cut_words(spans_s: np.ndarray, max_piece_s: float) -> list[int]:
    """Word indices at which to cut, 0 and W included: each time at the widest gap in the second half of a piece."""
    cuts = [0]
    while spans_s[-1, 1] - _boundary(spans_s, cuts[-1]) > max_piece_s:
        start_s, first = _boundary(spans_s, cuts[-1]), cuts[-1]
        reach = [i for i in range(first + 1, len(spans_s)) if spans_s[i, 0] - start_s <= max_piece_s]
        if not reach:  # one word fills a piece
            reach = [first + 1]
            if reach[0] >= len(spans_s):
                break
        late = [i for i in reach if spans_s[i, 0] - start_s >= max_piece_s / 2] or reach
        cuts.append(max(late, key=lambda i: spans_s[i, 0] - spans_s[i - 1, 1]))
    return [*cuts, len(spans_s)]


def _boundary(spans_s: np.ndarray, word: int) -> float:
    """The moment between a word and the one before it."""
    return float(spans_s[word, 0] + spans_s[word - 1, 1]) / 2 if word else 0.0
