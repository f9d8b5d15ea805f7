"""`labelled/label.json`: texts that machines wrote, by how far two hearers agree, and what became of them."""

from typing import ClassVar, Literal

from shibolet.records.documents.alignment import Confusion
from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.prepared import Amount

# Letters that differ, of the letters of the text; or nats a token by which the other one finds the text less likely
# than what it heard itself.
By = Literal["letters", "surprise"]


class Step(Part):
    """What clips with a known text say of one limit on the disagreement, damaged copies among them."""

    limit: float
    by: By = "letters"
    accepted: int
    false_accepts: int
    upper_pct: float  # end of the one-sided interval of their share; all steps together hold with 95%


class Threshold(Part):
    """Of the limits of which few false accepts are shown the one that most right texts pass."""

    limit: float | None  # None: no limit is shown to be good enough, and nothing passes
    by: By = "letters"
    clips: int  # that were judged
    steps: tuple[Step, ...]


Unwritten = Literal["marks", "capitals"]


class Author(Part):
    """Whose text trains in a domain, and why: word errors of both on its clips with a known text, as they are."""

    domain: str
    clips: int
    writer_wer_pct: float
    listener_wer_pct: float
    chance: float  # of the listener being as much better if the two were alike
    by: Literal["writer", "listener"]
    unwritten: tuple[Unwritten, ...] = ()  # what the data do not have, and what the listener's texts lose
    refusal: str | None = None  # why the listener's do not train though it hears better


class Habit(Part):
    """A word that one of the two writes where something else is said: no piece with that text of its passes."""

    confusion: Confusion  # text: what is written; heard: what the other one hears or is known to be said there
    by: str  # "listener": of the pieces, by what the other one hears; "truth": of clips with a known text
    refused: int  # pieces
    author: Literal["writer", "listener"] = "writer"  # whose habit it is


class SourceLabels(Part):
    """One source without texts."""

    given: Amount
    admitted: Amount
    refused: dict[str, Amount]  # by rule, the most frequent first


class Flagged(Part):
    """Utterances of the training data that the audit flagged, heard again."""

    heard: int
    taken_back: int
    corrected: int
    dropped: int  # as without this stage


class Labelled(Document):
    """`labelled/label.json`."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet label RECIPE' makes it anew"

    writer: str
    listener: str
    max_wer: float
    max_false_accept_pct: float
    agreement: Threshold  # between the text that trains and what the other one hears
    given: Threshold | None  # between a text of the data and the writer's; None: no flagged utterance was heard
    habits: tuple[Habit, ...]
    sources: dict[str, SourceLabels]
    flagged: Flagged | None
    sentence: str
    notes: tuple[str, ...]
    authors: tuple[Author, ...] = ()  # of the domains of which clips have a known text; elsewhere it is the writer

    @property
    def listeners_domains(self) -> tuple[str, ...]:
        """Domains whose texts are the listener's."""
        return tuple(one.domain for one in self.authors if one.by == "listener")

    @property
    def wrote(self) -> tuple[str, ...]:
        """The models whose texts may train."""
        return (self.writer, self.listener) if self.listeners_domains else (self.writer,)

    def author(self, domain: str | None) -> str:
        """The model whose texts train in a domain."""
        return self.listener if (domain or "unknown") in self.listeners_domains else self.writer
