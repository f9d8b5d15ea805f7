"""`doubtful.json`: references of an evaluation set that the audit's instrument doubts, and a system without them."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import WordErrors


class DoubtfulReference(Part):
    """An utterance whose reference may not be what is said in it."""

    id: str
    duration_s: float
    suspect: str  # a guess, as in the audit: wrong_text, text_missing, ...
    confidence: float  # of the audit; under `audit.min_confidence`
    reasons: tuple[str, ...]
    reference: str
    heard: str  # by the audit's recogniser
    errors: WordErrors  # the system's own, in it


class DoubtfulScores(Document):
    """One system on one set, with all references and without those in doubt."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet evaluate RECIPE' makes it"

    label: str  # its folder under evaluate/
    title: str
    set: str
    utterances: int  # that were scored
    judged: int  # of which the instrument could say something
    unjudged: dict[str, int]  # why it could not, a ledger rule -> how many
    references: tuple[DoubtfulReference, ...]  # in doubt, the least credible first
    wer: WordErrors  # of all: the score
    wer_without: WordErrors  # of those that are not in doubt
    sentences: tuple[str, ...]
