"""`tune-decoding/decoding.json`: ways to decode on the dev split, with what each costs."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Ends, Folds, Optimism


class Setting(Part):
    """A way to decode."""

    beam_size: int  # 1: greedy
    length_penalty: float
    ngram_weight: float = 0.0  # 0: without an n-gram

    def __str__(self) -> str:
        ngram = f" and n-gram weight {self.ngram_weight:g}" if self.ngram_weight else ""
        return f"beam size {self.beam_size} with length penalty {self.length_penalty:g}{ngram}"


class MeasuredSetting(Setting):
    """One setting on dev, and how it differs from greedy decoding."""

    wer_pct: float
    cer_pct: float
    points: float  # of WER, minus greedy decoding
    interval_points: tuple[float | None, float | None]  # None: too few recordings and speakers
    folds: Folds
    seconds: float  # of decoding alone
    audio_s_per_s: float
    times_greedy: float


class DecodingTable(Document):
    """Every setting, and the one to put into the recipe."""

    FORMAT: ClassVar[int] = 6
    REMEDY: ClassVar[str] = "'shibolet tune-decoding RECIPE' makes it anew"

    model: str
    ngram: str | None  # file of the n-gram; None: no row has one
    level_pct: float  # of one interval, so that all hold together with 95%
    settings: tuple[MeasuredSetting, ...]  # greedy decoding first
    recommended: Setting
    sentence: str
    optimism: Optimism | None
    expected_points: Ends | None  # what the recipe's plan expects beams to gain
