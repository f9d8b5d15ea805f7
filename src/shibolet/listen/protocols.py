"""What an aligner and a recogniser are to the audit. Another is a class with one of these methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from shibolet.records.pickled import pickled_fast


@pickled_fast
@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Where each of W words is said to be, as the aligner puts it before any repair."""

    starts_s: np.ndarray  # [W]
    ends_s: np.ndarray  # [W]; may lie before the start: that is evidence too


@pickled_fast
@dataclass(frozen=True, kw_only=True, slots=True)
class Hearing:
    """What a recogniser heard, and how well the given words explain it."""

    hypothesis: str
    # Log-probability of the text less that of the hypothesis (CTC: of the free best path, per letter), on average over
    # the tokens of each; at most 0. None: unknown.
    text_score: float | None
    # Mean log-probability of the text's tokens with its end, in lower case or in the hypothesis's own writing, where
    # that is likelier; CTC: of the letters of the forced path. None: unknown.
    text_logp: float | None = None
    # Of the text's least likely token in that writing, its end too; CTC: the lowest of a word. None: unknown.
    worst_score: float | None = None
    # When the hypothesis's letters were heard; empty: unknown.
    letter_times_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    # Start and end of the text's words [W, 2]; empty: unknown.
    word_spans_s: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


class Aligner(Protocol):
    """Finds words in audio, whether they are there or not; several threads may ask at a time."""

    identity: str  # hash of the weights: calibrations and caches are bound to it

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        """Times of `words[i]` (at least one) in `clips[i]`, mono float32 at 16 kHz."""
        ...


class Recogniser(Protocol):
    """A second opinion: says what it hears, and what it thinks of the text; several threads may ask at a time."""

    identity: str

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        """Hypothesis for `clips[i]` and the score of `words[i]` (at least one)."""
        ...


class ByName(Protocol):
    """A recogniser's answers from elsewhere: it knows utterances by their ids, and no changed copies of them."""

    identity: str

    def look_up(self, ids: Sequence[str]) -> list[Hearing | None]:
        """What was heard in each utterance; None where nothing is known of it."""
        ...
