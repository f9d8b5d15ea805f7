"""Aligning clips that are longer than an aligner is good for: where a recogniser has its words' places, by those."""

from collections.abc import Sequence

import numpy as np

from shibolet.listen.protocols import Aligner, Alignment, Hearing
from shibolet.speech.audio import SAMPLE_RATE_HZ


def align(
    aligner: Aligner,
    clips: Sequence[np.ndarray],
    words: Sequence[list[str]],
    hearings: Sequence[Hearing],
    max_clip_s: float,
) -> list[Alignment]:
    """Alignments of mono 16 kHz clips; one of over `max_clip_s` takes the recogniser's word times, if it gives any."""
    durations_s = [len(clip) / SAMPLE_RATE_HZ for clip in clips]
    is_heard = [d > max_clip_s and len(h.word_spans_s) > 0 for d, h in zip(durations_s, hearings, strict=True)]
    short = [i for i, heard in enumerate(is_heard) if not heard]
    aligned = iter(aligner.align([clips[i] for i in short], [words[i] for i in short]) if short else ())
    return [
        _from_spans(hearing.word_spans_s, duration_s) if heard else next(aligned)
        for hearing, duration_s, heard in zip(hearings, durations_s, is_heard, strict=True)
    ]


def _from_spans(spans_s: np.ndarray, duration_s: float) -> Alignment:
    starts_s, ends_s = np.clip(spans_s, 0.0, duration_s).T
    return Alignment(starts_s=starts_s, ends_s=np.maximum(starts_s, ends_s))
