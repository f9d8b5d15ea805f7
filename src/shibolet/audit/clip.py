"""What is to be heard, and what was: plain data that the audit's processes hand to each other. No torch."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache

import numpy as np

from shibolet.audit.signals import Signals
from shibolet.records.files import hash_json
from shibolet.records.pickled import pickled_fast
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.text.language import Language
from shibolet.speech.text.rules import has_words

AudioChange = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@pickled_fast
@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """An utterance, or a damaged copy of one for the self-test.

    Changes of audio are values that can be called: other processes run them, and what was heard is known by their text.
    """

    key: str  # unique among the clips that are heard together
    utterance: str = ""  # whose audio it is, or a copy's was
    audio: AudioRef
    words: tuple[str, ...]
    verifiable: tuple[bool, ...]
    duration_s: float = 0.0  # as the data say, to plan with
    change_audio: AudioChange | None = None

    @property
    def other_audio(self) -> tuple[AudioRef, ...]:
        """What its change mixes in."""
        return getattr(self.change_audio, "mixes_in", ())

    def content_id(self, audio_hash: str, other_hashes: Sequence[str] = ()) -> str:
        """Hash of all that its evidence depends on, but for the listeners: never of names, places or times of files.

        The hashes are those of its audio's bytes and of `other_audio`'s.
        """
        span = (self.audio.start_s, self.audio.end_s)
        others = [[hash, ref.start_s, ref.end_s] for hash, ref in zip(other_hashes, self.other_audio)]
        content = [audio_hash, span, self.words, self.verifiable, _name(self.change_audio)]
        return hash_json([*content, others] if others else content)


def clip_of(u: Utterance, language: Language) -> Clip | None:
    """An utterance to listen to; None where its text has no word that could be checked."""
    words = language.to_words(u.text)
    if not words.num_verifiable or not has_words(u.text):
        return None
    return Clip(
        key=u.id,
        utterance=u.id,
        audio=u.audio,
        words=tuple(map(sys.intern, words.tokens)),  # a corpus has few different words, each many times
        verifiable=_shared(words.verifiable),
        duration_s=u.duration_s,
    )


@lru_cache(4096)
def _shared(verifiable: tuple[bool, ...]) -> tuple[bool, ...]:
    """The same object for equal values: most clips have nothing but True."""
    return verifiable


def _name(change: Callable | None) -> str | None:
    """What a change does, in words that another run writes too: a dataclass with its values, or a function's place."""
    if change is None or is_dataclass(change):
        return change and repr(change)
    if "<" in change.__qualname__:  # <lambda>, <locals>
        raise ValueError(f"{change.__qualname__}: a change of a clip has to be a dataclass or a function of a module")
    return f"{change.__module__}.{change.__qualname__}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Signals of a clip with what a person wants to see; or why there are none."""

    key: str
    failure: str | None = None  # a ledger rule: undecodable, too_short, ...
    detail: str = ""
    hypothesis: str = ""
    starts_s: tuple[float, ...] = ()  # of each word, raw
    ends_s: tuple[float, ...] = ()
    signals: Signals | None = None

    def to_json(self) -> dict:
        """Without the key, which is no part of what was heard."""
        row = asdict(self)
        del row["key"]
        return row

    @classmethod
    def from_json(cls, key: str, row: dict) -> "Evidence":
        return cls(key=key, **{**row, "signals": Signals(**row["signals"]) if row["signals"] else None})
