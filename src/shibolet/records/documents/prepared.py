"""`prepared/summary.json`: what is left to train on, and what became of the rest."""

from collections.abc import Sequence
from typing import ClassVar, Self

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Ends


class Amount(Part):
    """A number of utterances and their hours in all."""

    utterances: int
    hours: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """The utterances that are so long."""
        return cls(utterances=len(seconds), hours=round(sum(seconds) / 3600, 5))


class Counts(Part):
    """What became of the utterances: kept + dropped = given."""

    given: int
    kept: int  # of which at least a piece stays
    dropped: int


class Hours(Part):
    """... and of their hours: kept + dropped + left_out_of_kept = given."""

    given: float
    kept: float  # of the pieces
    dropped: float
    left_out_of_kept: float


class Cut(Part):
    """Utterances of which more than one piece came, and their pieces."""

    utterances: int
    pieces: int


class Split(Amount):
    """One side of the split; its utterances are rows, so pieces count each."""

    domains: dict[str, Amount]
    groups: int  # speakers, recordings or files: what it was split by


class Share(Part):
    """A ratio of counts over texts."""

    rate: float | None  # None: there is nothing to count
    interval: Ends | None  # at 95%, over speakers and recordings; None: too few of them


class WritingStyle(Part):
    """How the texts of a source, or of a domain in it, are written."""

    source: str
    domain: str | None  # None: all of the source
    texts: int
    words_per_text: Share
    marks_per_word: Share
    ends_in_mark: Share  # of texts
    words_with_digits: Share  # of words
    capitals: Share  # of letters that have a case
    latin_letters: Share  # of letters
    pointed_words: Share  # of words: with niqqud or accents, which targets do without
    own_geresh: Share  # of geresh and gershayim in words: written with signs of their own; the same in targets


class Writing(Part):
    """Style by source."""

    styles: tuple[WritingStyle, ...]
    warnings: tuple[str, ...]  # where one source writes differently from another


class Prepared(Document):
    """`prepared/summary.json`; by rule, the most frequent first."""

    FORMAT: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "'shibolet prepare RECIPE' makes it anew"

    utterances: Counts
    hours: Hours
    cut: Cut
    train: Split
    dev: Split
    dropped_by_rule: dict[str, Amount]
    changed_by_rule: dict[str, Amount]  # hours: what was left out of utterances that stay
    unread: dict[str, int]  # rows that never became utterances, counted nowhere else
    language: str
    normaliser: str
    seed: int
    split_by: str
    notes: tuple[str, ...]  # sentences
    writing: Writing
