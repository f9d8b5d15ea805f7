"""A recording of any length as pieces that a model can take, cut at pauses, of which no sample is lost or doubled."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from shibolet.errors import AudioError
from shibolet.speech.activity import speech_spans
from shibolet.speech.audio import SAMPLE_RATE_HZ

QUIET_S = 0.1  # between words without a pause: a stop's closure, or a softer end
BLOCK_S = 120.0  # pauses are sought in what is left of the block before and this much more: all that is in memory


def cut_stream(blocks: Iterable[np.ndarray], max_piece_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Start in samples and samples of each piece of a recording that comes in blocks of any length (16 kHz, mono).

    An AudioError of `blocks` is raised after the pieces of what came before it.
    """
    start, held, length, error = 0, [], 0, None
    blocks = iter(blocks)
    while True:
        try:
            block = next(blocks, None)
        except AudioError as found:
            block, error = None, found
        if block is None:
            break
        held.append(block)
        length += len(block)
        if length >= (BLOCK_S + max_piece_s) * SAMPLE_RATE_HZ:
            samples = np.concatenate(held)
            *whole, (rest, _) = cut_at_pauses(samples, max_piece_s)  # the last one may go on in the next block
            yield from ((start + begin, samples[begin:end]) for begin, end in whole)
            start, held, length = start + rest, [samples[rest:].copy()], len(samples) - rest
    if length:
        samples = np.concatenate(held)
        yield from ((start + begin, samples[begin:end]) for begin, end in cut_at_pauses(samples, max_piece_s))
    if error is not None:
        raise error


def in_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """A recording that is in memory as `cut_stream` takes it."""
    step = int(BLOCK_S * SAMPLE_RATE_HZ)
    return (samples[first : first + step] for first in range(0, len(samples), step))


def cut_at_pauses(samples: np.ndarray, max_piece_s: float) -> list[tuple[int, int]]:
    """Spans `[start, end)` in samples, none longer than `max_piece_s`, that together are the whole recording.

    A cut lies in the middle of the longest pause of the second half of what may be taken, else of the first half; a
    stretch without a pause is cut at quiet moments into about equal parts.
    """
    limit = int(max_piece_s * SAMPLE_RATE_HZ)
    spans = speech_spans(samples) if len(samples) > limit else []
    edges = [round(time * SAMPLE_RATE_HZ) for span in spans for time in span] + [len(samples)]
    pauses = [(begin, end) for begin, end in zip(edges[1::2], edges[2::2], strict=True) if begin < end]
    pieces, start = [], 0
    while len(samples) - start > limit:
        end = _next_cut(pauses, start, limit, samples)
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(samples))]


def _next_cut(pauses: list[tuple[int, int]], start: int, limit: int, samples: np.ndarray) -> int:
    later = [(begin, end) for begin, end in pauses if begin > start]  # speech lies before each of them
    within = [(begin, min(end, start + limit)) for begin, end in later if begin < start + limit]
    for earliest in (start + limit // 2, start):
        if near := [pause for pause in within if sum(pause) // 2 > earliest]:
            begin, end = max(near, key=lambda pause: pause[1] - pause[0])
            return (begin + end) // 2
    stretch = (later[0][0] if later else len(samples)) - start
    equal = start + math.ceil(stretch / math.ceil(stretch / limit))
    return _quietest(samples, max(start + 1, equal - limit // 4), min(start + limit, equal + limit // 4), equal)


def _quietest(samples: np.ndarray, first: int, last: int, wanted: int) -> int:
    """The middle of the quietest `QUIET_S` from `first` to `last`; among equals the one nearest to `wanted`."""
    half = int(QUIET_S * SAMPLE_RATE_HZ) // 2
    around = samples[max(0, first - half) : last + half].astype(np.float64) ** 2
    power = np.concatenate(([0.0], around.cumsum()))
    places = np.arange(first, last + 1)
    ends = np.minimum(places + half, len(samples)) - max(0, first - half)
    starts = np.maximum(places - half, 0) - max(0, first - half)
    energy = np.round((power[ends] - power[starts]) / (ends - starts), 12)
    return int(places[np.lexsort((np.abs(places - wanted), energy))[0]])
