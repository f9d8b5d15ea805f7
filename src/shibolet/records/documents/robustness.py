"""`robustness/robustness.json`: WER of baseline and result on copies of test utterances that get worse by doses."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.comparison import Block, Named
from shibolet.records.documents.scores import Ends

SAID = {
    "white": "white noise", "pink": "pink noise", "babble": "babble", "opus": "Opus", "packet_loss": "lost packets",
}  # fmt: skip


class DosePoint(Part):
    """Both systems at one kind and amount, on the same utterances at every dose."""

    kind: str  # clean, white, pink, babble, opus, packet_loss
    amount: float  # in `unit`; of clean 0
    unit: str  # dB of SNR, kbps, % of packets
    block: Block  # candidate less baseline; Holm's p in its WER is adjusted for the number of doses
    intervals_pct: tuple[Ends | None, Ends | None]  # of each WER, at 95%; None: too few groups
    beyond_points: float | None  # how much more of a gain than on clean copies; negative: more; None: clean, no words
    beyond_interval_points: Ends | None

    @property
    def said(self) -> str:
        """As people read it: "babble 10 dB", "Opus 8 kbps", "lost packets 20 %"."""
        return f"{SAID[self.kind]} {self.amount:g} {self.unit}" if self.kind in SAID else self.kind


class Robustness(Document):
    """The dose curves of a round."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet robustness RECIPE' makes it anew"

    baseline: Named
    candidate: Named
    utterances_by_set: dict[str, int]
    points: tuple[DosePoint, ...]  # clean first, then each kind from mild to strong
    kinds: dict[str, Block]  # all doses of a kind together; Holm's p is adjusted for the number of kinds
    sentences: tuple[str, ...]

    @property
    def titles(self) -> tuple[str, str]:
        return self.baseline.title, self.candidate.title
