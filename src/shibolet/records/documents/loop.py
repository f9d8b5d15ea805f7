"""`loop.json`: rounds on data that the model before made better, as long as each is shown to gain."""

from typing import ClassVar, Literal

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.labelled import Flagged
from shibolet.records.documents.scores import Ends


class Turn(Part):
    """One round of the loop; points are of WER, less than the round before where negative."""

    title: str
    folder: str  # below the loop's
    ended: Literal["gained", "not_gained", "refused", "gate"]
    # refused: the verdict of `compare` on the first seed is reject; gate: it did not let the round pass
    low_quality_pct: float | None  # of the data as they are, by the gate
    low_quality_prepared_pct: float | None  # of what may train; None: nobody heard it
    train_hours: float | None
    machine_hours: float | None  # of these with a text that a machine wrote
    flagged: Flagged | None  # None: this turn heard no flagged utterance again
    habits: int  # words that one of the hearers writes for another, which were kept out
    points: float | None
    points_by_seed: tuple[float, ...]  # each against the mean of the round before
    interval_points: Ends | None  # with the variance between seeds; all turns hold together with 95%
    sentence: str


class Loop(Document):
    """`loop.json`."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet loop' makes it anew"

    max_turns: int
    seeds: int
    level_pct: float  # of each interval
    turns: tuple[Turn, ...]
    best: str | None  # folder of the round to keep; None: none gained
    sentence: str
