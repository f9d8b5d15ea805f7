"""What `shibolet combine` prints: systems' hypotheses put to a vote, by set."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part


class CombinedSet(Part):
    """One set."""

    utterances: int  # that one system or more has a hypothesis for
    left_out: int  # that none has
    of_fewer: int  # that not all systems have: those that do vote
    slots: int  # places in which a word or none was voted on
    unanimous: int  # of these, where all systems have the same word
    changed: int  # utterances that differ from the first system's, as they are scored


class Combined(Document):
    """A vote word by word (ROVER)."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet combine' makes it anew"

    systems: tuple[str, ...]  # in the order of the vote: the first wins at a tie
    alpha: float  # weight of the share of systems; the rest is their confidence
    null_confidence: float
    sets: dict[str, CombinedSet]
    out: str  # the file of hypotheses
