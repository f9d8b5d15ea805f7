"""`labelled/label.json`: texts that machines wrote, by how far two hearers agree, and what became of them."""

from typing import ClassVar

from shibolet.records.documents.alignment import Confusion
from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.prepared import Amount


class Step(Part):
    """What clips with a known text say of one limit on the disagreement, damaged copies among them."""

    limit: float  # letters that differ, of the letters of the text
    accepted: int
    false_accepts: int
    upper_pct: float  # end of the one-sided interval of their share; all steps together hold with 95%


class Threshold(Part):
    """The loosest limit of which few false accepts are shown."""

    limit: float | None  # None: no limit is shown to be good enough, and nothing passes
    clips: int  # that were judged
    steps: tuple[Step, ...]


class Habit(Part):
    """A word that the writer writes where something else is said: no piece with it passes."""

    confusion: Confusion  # text: what the writer writes; heard: what is heard or known to be said there
    by: str  # "listener": of the pieces; "truth": of clips with a known text
    refused: int  # pieces


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
    agreement: Threshold  # between the writer's text and what the listener hears
    given: Threshold | None  # between a text of the data and the writer's; None: no flagged utterance was heard
    habits: tuple[Habit, ...]
    sources: dict[str, SourceLabels]
    flagged: Flagged | None
    sentence: str
    notes: tuple[str, ...]
