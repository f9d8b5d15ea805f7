"""What encoder-decoder recognisers (Whisper and its like) share as a second opinion.

Each audio is encoded once, written down greedily, and every text of it is scored on the same encoding. What is computed
together depends on the list of clips alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

import numpy as np

from shibolet.listen.forced_text import judge, plans_of
from shibolet.listen.pieces import cut_at_pauses
from shibolet.listen.protocols import Hearing
from shibolet.listen.windows import choose_window, fits
from shibolet.speech.audio import SAMPLE_RATE_HZ

TOKENS_PER_S = 15.0  # of what a model may write, 25 letters of Hebrew; a loop ends there
SPARE_TOKENS = 8
MAX_WRITTEN = 223  # half of Whisper's positions and one for the end, as many as CTranslate2 writes
BATCH_CLIPS = {"cpu": 8, "cuda": 64}
# Scored at once, padding included: 50,000 log-probabilities of each are 200 MB and 1.6 GB.
FORCED_TOKENS = {"cpu": 1024, "cuda": 8192}

States = TypeVar("States")  # of the encoder, for a batch of clips


class EncoderDecoderRecogniser(ABC, Generic[States]):
    """`Recogniser` by a greedy transcript and the likelihood of text and transcript under teacher forcing.

    A clip longer than the model takes is transcribed in pieces and has no score: its text is not cut with it.
    """

    identity: str

    def __init__(self, language: str, full_s: float, device: str) -> None:
        self._language, self._full_s = language, full_s
        kind = "cuda" if device.startswith("cuda") else "cpu"
        self._batch_clips, self._forced_tokens = BATCH_CLIPS[kind], FORCED_TOKENS[kind]
        self.window_s = full_s

    @abstractmethod
    def _encode(self, clips: list[np.ndarray], window_s: float) -> States:
        """Encoder states of clips, each padded to the window."""

    @abstractmethod
    def _write(self, states: States, limits: list[int]) -> list[list[int]]:
        """Greedy tokens of each clip without the prefix and the end of text; at least up to its limit."""

    @abstractmethod
    def _force(self, states: States, rows: list[int], texts: list[list[int]]) -> list[np.ndarray]:
        """Log-probabilities `[tokens + 1]` of each text, with its end, given the clip in that row."""

    @abstractmethod
    def _tokens(self, text: str) -> list[int]: ...

    @abstractmethod
    def _text(self, ids: list[int]) -> str:
        """As the tokenizer gives it, with the space at the start where there is one."""

    @abstractmethod
    def _max_tokens(self) -> int:
        """Of a text, its end not counted."""

    def _char_spans_s(self, states: States, rows: list[int], texts: list[str], nums: list[int]) -> list[np.ndarray]:
        """Start and end `[characters, 2]` of each text's characters in clips of so many samples; empty: unknown."""
        return [np.zeros((0, 2)) for _ in texts]

    def set_window(self, seconds: float) -> None:
        """Clips that fit with a second of silence are padded to so much and not to the model's full window."""
        self.window_s = min(math.ceil(round(50 * seconds, 6)) / 50, self._full_s)  # whole frames of the encoder, 20 ms

    def choose_window(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> float:
        """The window that is good enough for clips like these (mono float32, 16 kHz), found by trying both."""
        return choose_window(clips, words, self._full_s, self.transcribe, self._language)

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        places: dict[int, list[int]] = {}  # of one audio under several texts
        for place, clip in enumerate(clips):
            places.setdefault(id(clip), []).append(place)
        audio = list({id(clip): clip for clip in clips}.values())
        found: dict[int, Hearing] = {}
        whole = [clip for clip in audio if self._is_whole(clip)]
        for batch, window_s in self._batches(whole, self.window_s):
            own = [whole[i] for i in batch]
            asked = [[words[place] for place in places[id(clip)]] for clip in own]
            for clip, hearings in zip(own, self._hear_batch(own, window_s, asked), strict=True):
                found.update(zip(places[id(clip)], hearings, strict=True))
        long = [clip for clip in audio if not self._is_whole(clip)]
        for clip, text in zip(long, self.transcribe(long), strict=True):
            found.update((place, Hearing(hypothesis=text, text_score=None)) for place in places[id(clip)])
        return [found[place] for place in range(len(clips))]

    def transcribe(self, clips: Sequence[np.ndarray], window_s: float | None = None) -> list[str]:
        """Greedy text of each clip (mono float32, 16 kHz); one audio given twice is transcribed once."""
        pieces, owners = [], []
        for index, clip in {id(clip): clip for clip in clips}.items():
            spans = cut_at_pauses(clip, self._full_s)
            pieces += [clip[start:end] for start, end in spans]
            owners += [index] * len(spans)
        written: dict[int, str] = {}
        for batch, own_s in self._batches(pieces, window_s or self.window_s):
            own = [pieces[i] for i in batch]
            written.update(zip(batch, self._written(self._encode(own, own_s), own), strict=True))
        texts: dict[int, list[str]] = {}
        for place, owner in enumerate(owners):
            texts.setdefault(owner, []).append(written[place].strip())
        return [" ".join(text for text in texts[id(clip)] if text) for clip in clips]

    def _is_whole(self, clip: np.ndarray) -> bool:
        return len(clip) <= self._full_s * SAMPLE_RATE_HZ

    def _batches(self, clips: Sequence[np.ndarray], window_s: float) -> Iterator[tuple[list[int], float]]:
        """Places of clips of one window and of about one length."""
        order = sorted(range(len(clips)), key=lambda i: (len(clips[i]), i))
        for own_s in sorted({window_s, self._full_s}):
            own = [i for i in order if (window_s if fits(clips[i], window_s) else self._full_s) == own_s]
            step = self._batch_clips
            yield from ((own[first : first + step], own_s) for first in range(0, len(own), step))

    def _written(self, states: States, clips: list[np.ndarray]) -> list[str]:
        """A clip's text is bounded by its own length, whatever the longest of its batch may write."""
        limits = [
            min(MAX_WRITTEN, self._max_tokens(), int(TOKENS_PER_S * len(clip) / SAMPLE_RATE_HZ) + SPARE_TOKENS)
            for clip in clips
        ]
        ids = self._write(states, limits)
        # A limit may lie within a character.
        return [self._text(own[:limit]).rstrip("\ufffd") for own, limit in zip(ids, limits, strict=True)]

    def _hear_batch(
        self, clips: list[np.ndarray], window_s: float, asked: list[list[list[str]]]
    ) -> list[list[Hearing]]:
        """What was heard in each clip, once for each of the texts asked about it."""
        states = self._encode(clips, window_s)
        written = self._written(states, clips)
        heard = [text.strip() for text in written]
        plans = plans_of(list(zip(heard, asked, strict=True)), self._language)
        logps = self._score(states, written, plans)
        spans = self._spans_s(states, clips, [[" ".join(said) for said in texts] for texts in asked])
        return [
            [self._hearing(row, heard[row], said, plan, logps, spans) for said, plan in zip(asked[row], plans[row])]
            for row in range(len(clips))
        ]

    def _hearing(
        self,
        row: int,
        heard: str,
        said: list[str],
        plan: list[str],
        logps: dict[tuple[int, str], np.ndarray],
        spans: dict[tuple[int, str], np.ndarray],
    ) -> Hearing:
        judged = judge([logps[row, text] for text in plan], logps[row, heard])
        return Hearing(
            hypothesis=heard,
            text_logp=judged.text_logp,
            text_score=judged.text_score,
            worst_score=judged.worst_score,
            word_spans_s=_word_spans_s(said, spans[row, " ".join(said)]),
        )

    def _score(
        self, states: States, written: list[str], plans: list[list[list[str]]]
    ) -> dict[tuple[int, str], np.ndarray]:
        """Log-probabilities of the tokens of every writing of a row; one that occurs twice is scored once."""
        asked = {
            (row, text): self._tokens(self._lead(written[row]) + text)[: self._max_tokens()] if text else []
            for row, own in enumerate(plans)
            for text in (written[row].strip(), *chain.from_iterable(own))
        }
        found: dict[tuple[int, str], np.ndarray] = {}
        for chunk in _chunks(asked, self._forced_tokens):
            logps = self._force(states, [row for row, _ in chunk], [asked[key] for key in chunk])
            found.update(zip(chunk, logps, strict=True))
        return found

    def _spans_s(
        self, states: States, clips: list[np.ndarray], asked: list[list[str]]
    ) -> dict[tuple[int, str], np.ndarray]:
        """Times of the characters of every text of a row."""
        keys = list(dict.fromkeys((row, text) for row, own in enumerate(asked) for text in own))
        rows = [row for row, _ in keys]
        spans = self._char_spans_s(states, rows, [text for _, text in keys], [len(clips[row]) for row in rows])
        return dict(zip(keys, spans, strict=True))

    def _lead(self, written: str) -> str:
        """Whisper begins with a space; a model that was trained without one scores badly with it."""
        if not written:
            return " " if self._text(self._tokens(" a")).startswith(" ") else ""
        return " " if written.startswith(" ") else ""


def _chunks(asked: dict[tuple[int, str], list[int]], most: int) -> Iterator[list[tuple[int, str]]]:
    """Keys of texts of about one length, at most so many tokens together when padded to the longest."""
    chunk: list[tuple[int, str]] = []
    for key in sorted(asked, key=lambda key: (len(asked[key]), key)):
        if chunk and (len(chunk) + 1) * (len(asked[key]) + 1) > most:
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk


def _word_spans_s(words: list[str], char_spans_s: np.ndarray) -> np.ndarray:
    """Start and end `[W, 2]` of words from those of the characters of their text; empty where these are unknown."""
    if not len(char_spans_s):
        return np.zeros((0, 2))
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = ends - [len(word) for word in words]
    return np.stack([char_spans_s[starts, 0], char_spans_s[ends - 1, 1]], axis=1)
