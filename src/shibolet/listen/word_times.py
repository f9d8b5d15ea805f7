"""Word times in order, from an aligner's raw ones."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

JITTER_S = 0.2  # a raw time this far out of order is imprecise, as classes of 80 ms are; beyond it is an error


@dataclass(frozen=True, slots=True)
class WordTimes:
    """Times of W words in order: none ends before it starts or starts before the one before it ends."""

    starts_s: np.ndarray  # [W]
    ends_s: np.ndarray  # [W]
    start_kept: np.ndarray  # [W] bool: within JITTER_S of the aligner's, not interpolated
    end_kept: np.ndarray  # [W] bool

    @property
    def middles_s(self) -> np.ndarray:
        return (self.starts_s + self.ends_s) / 2

    @property
    def sound(self) -> np.ndarray:
        """Mask [W] of words with both times kept, outside of runs of zero length (a single one means nothing)."""
        empty = np.concatenate(([False], self.ends_s <= self.starts_s, [False]))
        in_run = empty[1:-1] & (empty[:-2] | empty[2:])
        return self.start_kept & self.end_kept & ~in_run


def repair_times(starts_s: Sequence[float], ends_s: Sequence[float], duration_s: float) -> WordTimes:
    """Raw times in order: a longest non-decreasing run stays, near ones move into its gaps, others are interpolated."""
    raw = np.stack([np.asarray(starts_s, float), np.asarray(ends_s, float)], axis=1).ravel()
    usable = np.flatnonzero((raw >= 0) & (raw <= duration_s + JITTER_S))  # NaN is in no range
    run = usable[longest_in_order(raw[usable])]
    if not len(run):
        return WordTimes(*np.zeros((2, len(starts_s))), *np.zeros((2, len(starts_s)), bool))
    places = np.arange(len(raw))
    low = np.concatenate(([0.0], raw[run]))[np.searchsorted(run, places, side="right")]
    high = np.concatenate((raw[run], [duration_s]))[np.searchsorted(run, places, side="left")]
    within = np.clip(raw, low, high)
    kept = np.abs(raw - within) <= JITTER_S
    anchors = np.flatnonzero(kept)
    times = np.interp(places, anchors, np.maximum.accumulate(within[anchors])).clip(0, duration_s)
    return WordTimes(times[0::2], times[1::2], kept[0::2], kept[1::2])


def longest_in_order(times: np.ndarray) -> np.ndarray:
    """Indices of one longest non-decreasing subsequence."""
    values: list[float] = []  # the smallest last value of a run of each length, and where it stands
    places: list[int] = []
    before = np.full(len(times), -1)
    for i, time in enumerate(times):
        length = bisect_right(values, time)
        before[i] = places[length - 1] if length else -1
        values[length : length + 1], places[length : length + 1] = [time], [i]
    run = places[-1:]
    while run and before[run[-1]] >= 0:
        run.append(before[run[-1]])
    return np.array(run[::-1], dtype=int)
