"""`non_speech.json`: what a model writes where nobody speaks its language, and what it repeats of its context."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Failure

MADE = ("silence", "noise", "music", "breathing")  # kinds that are made from code


class NonSpeechClip(Part):
    """One clip, as it was written down without a context and with one."""

    id: str
    kind: str  # silence, noise, music, breathing, the name of a source, or "speech: SET" of a set in another language
    group: str  # what it shares its fate with: clips of one recording or speaker have the same name here
    duration_s: float
    text: str
    words: int  # of the text, normalised as for scores
    repeated: tuple[str, ...] | None  # words of the context, written with it and not without it; None: none was given


class NonSpeechKind(Part):
    """All clips of a kind."""

    clips: int
    duration_s: float
    with_words: int  # clips
    words: int
    words_per_minute: float
    echoes: int | None  # clips that repeat words of the context; None: no context was given


class NonSpeech(Document):
    """What one model wrote."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "'shibolet evaluate RECIPE' makes it anew"

    label: str
    title: str
    identity: str  # of the model, by content
    context: tuple[str, ...]  # the words that the second pass was told; empty: there was none
    is_speech: tuple[str, ...]  # kinds in which somebody speaks another language: their words count as no invention
    kinds: dict[str, NonSpeechKind]
    clips: tuple[NonSpeechClip, ...]
    failures: tuple[Failure, ...]  # clips that could not be decoded: they are among none of the above

    @property
    def sentence(self) -> str:
        """What it wrote, in words."""
        silent = [kind for name, kind in self.kinds.items() if name not in self.is_speech]
        minutes, words = sum(one.duration_s for one in silent) / 60, sum(one.words for one in silent)
        said = f"{self.title} writes {words / minutes:.1f} words a minute where nobody speaks"
        if self.context:
            echoes = sum(one.echoes for one in self.kinds.values())
            said += f"; told {len(self.context)} terms, it repeats some in {echoes} of {len(self.clips)} clips"
        return f"{said}.{self.left_out}"

    @property
    def left_out(self) -> str:
        """A sentence, after a space, on clips that could not be decoded; empty where all could."""
        if not self.failures:
            return ""
        num, one = len(self.failures), self.failures[0]
        return f" Clips that cannot be decoded and are left out: {num}; the first is '{one.id}' ({one.detail})."
