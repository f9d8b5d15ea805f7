"""`truth.json`: what the demo did to its training data, and what was found of it."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.comparison import Block


class Found(Part):
    """Utterances of one kind and domain, and how many of them the audit flagged."""

    kind: str  # of damage, or "clean"
    domain: str
    utterances: int
    flagged: int


class AfterPrepare(Part):
    """What was kept to train on."""

    kept_utterances: int
    kept_damaged: int  # that say something else than their audio
    kept_damaged_pct: float | None  # None: nothing was kept
    damaged_by_kind: dict[str, int]
    good_hours: float
    good_hours_lost_pct: float


class Truth(Document):
    """`truth.json`."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet demo' writes it anew"

    synthetic: bool = True
    rows: tuple[Found, ...]
    after_prepare: AfterPrepare | None = None  # None: prepare was not reached
    without_prepare: dict[str, Block] | None = None  # by set, of a model trained on the raw data; None: none was
