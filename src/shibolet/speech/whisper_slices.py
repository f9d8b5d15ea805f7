"""Training slices for Whisper: 30 s of audio whose transcript carries its times as `<|t|>` tokens.

A slice ends where the next one starts, which is at the end of its last closed segment: what follows an open start token
is audio that the slice's text does not cover.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")


@dataclass(frozen=True, slots=True)
class Segment:
    """Words between two timestamp tokens; seconds from the start of the slice."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A transcript taken apart at its tokens."""

    segments: list[Segment]  # closed: a start, words, an end
    open_start_s: float | None  # where the last, unclosed segment starts
    untimed: str  # words before the first token


def parse_slice(transcript: str) -> Slice:
    """`<|0.00|> a b<|2.40|><|2.60|> c<|4.00|><|4.20|>` has two segments and an open start at 4.2 s."""
    untimed, *rest = _TOKEN.split(transcript)
    times = [float(time) for time in rest[::2]]
    texts = [text.strip() for text in rest[1::2]]  # texts[i] stands between times[i] and times[i + 1]
    segments = [Segment(times[i], times[i + 1], texts[i]) for i in range(len(times) - 1) if texts[i]]
    # The last token is an end when words stand before it and none after it; else it opens a segment.
    is_end = len(times) > 1 and texts[-2] and not texts[-1]
    return Slice(segments, times[-1] if times and not is_end else None, untimed.strip())


def without_timestamps(text: str) -> str:
    """A transcript without its `<|t|>` tokens."""
    return _TOKEN.sub(" ", text)


def find_timestamp(text: str) -> str | None:
    """The first `<|t|>` token in a text; None where it has none."""
    return found[0] if (found := _TOKEN.search(text)) else None


def join_segments(segments: Iterable[Segment]) -> str:
    """Segments as a transcript with tokens: the reverse of `parse_slice`, in hundredths of a second."""
    return "".join(f"<|{one.start_s:.2f}|> {one.text}<|{one.end_s:.2f}|>" for one in segments)


def fault_of_times(segments: Iterable[Segment], duration_s: float, tolerance_s: float) -> str | None:
    """What speaks against the times of segments in so much audio: a length of 0, another order, an end beyond it."""
    last_s = 0.0
    for number, one in enumerate(segments):
        span = f"segment {number} goes from {one.start_s:g} to {one.end_s:g} s"
        if one.start_s >= one.end_s:
            return span
        if one.start_s < last_s:
            return f"{span}, and the one before it ends at {last_s:g} s"
        if one.end_s > duration_s + tolerance_s:
            return f"{span} in {duration_s:.2f} s of audio"
        last_s = one.end_s
    return None


def rewritten(timed: str, rewrite: Callable[[str], str], start_s: float, end_s: float) -> str | None:
    """The transcript of a stretch of its audio, each segment's text rewritten; None where a segment lies outside of it.

    A segment that goes on over the edges of the stretch ends at them; one whose text is empty then is left out.
    """
    made = []
    for one in parse_slice(timed).segments:
        first_s, last_s = max(one.start_s, start_s), min(one.end_s, end_s)
        if first_s >= last_s:
            return None
        if text := rewrite(one.text).strip():
            made.append(Segment(first_s - start_s, last_s - start_s, text))
    return join_segments(made) or None
