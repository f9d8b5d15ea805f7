"""Listeners that are known to be good, deaf or gullible, over words that are tones; changes that tests know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from shibolet.audit.clip import Evidence
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Listener
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.speech.audio import load

VOCABULARY = [
    a + b + c for a, b, c in zip("אבגדהוזחטיכלמנסעפצקרשת", "נסעפצקרשתאבגדהוזחטיכלמ", "זחטיכלמנסעפצקרשתאבגדהו")
]
TONE_HZ = {word: 300 * 1.13**i for i, word in enumerate(VOCABULARY)}  # a copy 5% faster is still the same word
WORD_S = 0.4


def samples_of(words: list[str]) -> np.ndarray:
    t = np.arange(int(16000 * WORD_S)) / 16000
    tones = [0.3 * np.sin(2 * np.pi * TONE_HZ[word] * t) for word in words]
    quiet = np.zeros(4000)
    noise = 0.003 * np.random.default_rng(len(words)).standard_normal(8000 + len(t) * len(words))
    return (np.concatenate([quiet, *tones, quiet]) + noise).astype(np.float32)


class Ears:
    """Hears each 0.4 s of tone as the word of its frequency: a recogniser and an aligner that make no mistakes."""

    identity = "ears"

    def __init__(self) -> None:
        self.num_heard = 0

    def _words(self, clip: np.ndarray) -> list[tuple[str, float]]:
        found, num_words = [], max(1, round((len(clip) - 8000) / (16000 * WORD_S)))
        edges = np.linspace(4000, len(clip) - 4000, num_words + 1).astype(int)  # a copy 5% slower has as many words
        for first, last in pairwise(edges):
            part = clip[first:last]
            if len(part) > 1600 and np.sqrt(np.mean(part**2)) > 0.02:
                peak = max(1, np.abs(np.fft.rfft(part)).argmax()) * 16000 / len(part)
                found.append((min(TONE_HZ, key=lambda w: abs(np.log(TONE_HZ[w] / peak))), first / 16000))
        return found

    def hear(self, clips, words):
        self.num_heard += len(clips)
        out = []
        for clip, said in zip(clips, words):
            heard = self._words(clip)
            wrong = sum(w not in [h for h, _ in heard] for w in said) + abs(len(heard) - len(said))
            times = [at + i * WORD_S / len(w) for w, at in heard for i in range(len(w))]
            out.append(
                Hearing(
                    hypothesis=" ".join(w for w, _ in heard), text_score=-4.0 * wrong / len(said) - 0.05,
                    letter_times_s=np.array(times),
                )
            )  # fmt: skip
        return out

    def align(self, clips, words):
        return [
            Alignment(
                starts_s=0.25 + WORD_S * np.arange(len(said)), ends_s=0.25 + WORD_S * np.arange(1, len(said) + 1),
            )
            for said in words
        ]  # fmt: skip


class Deaf(Ears):
    """Says that every text fits."""

    def hear(self, clips, words):
        return [
            Hearing(
                hypothesis=" ".join(said), text_score=-0.05,
                letter_times_s=np.linspace(0.25, 0.25 + WORD_S * len(said), sum(map(len, said))),
            )
            for said in words
        ]  # fmt: skip


class Shouting(Ears):
    """Says that no text fits."""

    def hear(self, clips, words):
        return [replace(h, hypothesis="קר", text_score=-9.0) for h in super().hear(clips, words)]


class Swayed:
    """A listener whose score depends on who shares the batch, as a half-precision model's last bits do."""

    identity = "swayed"

    def __init__(self) -> None:
        self.heard: list[int] = []

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        self.heard += [len(clip) for clip in clips]
        together = sum(map(len, clips)) % 9973 / 1e4
        return [Hearing(hypothesis=" ".join(said), text_score=-together) for said in words]

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        return [
            Alignment(starts_s=np.zeros(len(w)), ends_s=np.full(len(w), len(c) % 97 / 97))
            for c, w in zip(clips, words, strict=True)
        ]


def half(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return samples[: len(samples) // 2]


@dataclass(frozen=True)
class Louder:
    gain: float

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.clip(self.gain * samples + 1e-3 * rng.standard_normal(len(samples)), -1, 1).astype(np.float32)


class InFile:
    """Hypotheses from elsewhere: what a recogniser that makes no mistakes wrote of these ids."""

    identity = "in a file"

    def __init__(self, said: dict[str, str]) -> None:
        self.said = said

    def look_up(self, ids: Sequence[str]) -> list[Hearing | None]:
        return [Hearing(hypothesis=self.said[id], text_score=None) if id in self.said else None for id in ids]


CONFIG = AuditConfig(aligner="ears", recogniser="ears", chunk_utterances=8, num_workers=0)


def listener(folder: Path, ears: "Swayed", **settings) -> Listener:
    """One that hears and aligns by the same ears."""
    return Listener(ears, ears, folder, load, CONFIG.model_copy(update=settings), "Hebrew")


def evidence(heard: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """All that was heard, in memory."""
    return {key: heard[key] for key in heard}
