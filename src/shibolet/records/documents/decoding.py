"""`tune-decoding/decoding.json`: ways to decode on the dev split, with what each costs."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part
from shibolet.records.documents.scores import Ends, Folds, Optimism


class Setting(Part):
    """A way to decode."""

    beam_size: int  # 1: greedy
    length_penalty: float
    mbr_samples: int | None  # None: no minimum Bayes risk
    mbr_temperature: float | None  # of samples; None: there are none
    repeat_bias: float
    ngram_weight: float  # of beams; 0: without an n-gram

    def __str__(self) -> str:
        if self.mbr_samples is not None:
            said = f"minimum Bayes risk over {self.mbr_samples} samples at temperature {self.mbr_temperature:g}"
        elif self.beam_size > 1:
            said = f"beam size {self.beam_size} with length penalty {self.length_penalty:g}"
        else:
            said = "greedy decoding"
        said += f" and n-gram weight {self.ngram_weight:g}" if self.ngram_weight else ""
        return f"{said} with repeat bias {self.repeat_bias:g}" if self.repeat_bias else said

    @property
    def texts_at_once(self) -> int:
        """Texts that are written beside each other of a clip: what it costs on any machine."""
        return self.beam_size + (self.mbr_samples or 0)

    @property
    def recipe_keys(self) -> dict[str, int | float]:
        """The keys of `evaluate` in a recipe that say it, but for `ngram`, which names a file too.

        Those that do nothing are left out.
        """
        if self.mbr_samples is not None:
            said = {"mbr_samples": self.mbr_samples, "mbr_temperature": self.mbr_temperature}
        elif self.beam_size > 1:
            said = {"beam_size": self.beam_size, "length_penalty": self.length_penalty}
        else:
            said = {"beam_size": 1}
        return said | ({"repeat_bias": self.repeat_bias} if self.repeat_bias else {})


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


class JoinedSetting(MeasuredSetting):
    """A setting that adds one way to those of another, its base, and what that changes on two halves of dev."""

    base: Setting
    chosen_by_wer_pct: float | None  # on the half of dev that chooses among what may be added
    added_points: float | None  # of WER, minus the base, on the other half
    added_interval: tuple[float | None, float | None]  # None: too few recordings and speakers

    @property
    def is_admitted(self) -> bool:
        high = self.added_interval[1]
        return high is not None and high < 0


class DecodingTable(Document):
    """Every setting, and the one to put into the recipe."""

    FORMAT: ClassVar[int] = 7
    REMEDY: ClassVar[str] = "'shibolet tune-decoding RECIPE' makes it anew"

    model: str
    ngram: str | None  # file of the n-gram; None: no row has one
    level_pct: float  # of one interval, so that all hold together with 95%
    settings: tuple[MeasuredSetting, ...]  # greedy decoding first
    joined: tuple[JoinedSetting, ...]  # what was added to the setting that is admitted; empty: nothing, or none is
    recommended: Setting
    sentence: str
    optimism: Optimism | None
    expected_points: Ends | None  # what the recipe's plan expects beams to gain
