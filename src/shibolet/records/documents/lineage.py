"""What `shibolet rounds` shows: the rounds that led to one, the first one first."""

from shibolet.records.documents.base import Part
from shibolet.records.documents.scores import Ends


class Gain(Part):
    """A round on one evaluation set."""

    wer: float | None  # None: the references are empty
    interval: Ends | None  # of the WER, at 95%
    points: float | None = None  # WER less that of the round before, of the same utterances; None: there is none before
    interval_points: Ends | None = None


class RoundOfChain(Part):
    """One round, or the model that the first of them had to beat, which has no folder."""

    title: str
    folder: str | None  # as the next one's recipe names it
    verdict: str | None = None  # None: not compared
    sets: dict[str, Gain]
    hours: float | None = None  # of training steps with their checkpoints, by the clock; None: nothing was trained here
    gpus: int | None = None  # None: on a CPU
    usd: float | None = None  # None: the recipe names no price, or there was no GPU

    @property
    def time(self) -> str:
        """Of the training, in words; empty where nothing was trained."""
        if self.hours is None:
            return ""
        return f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.0f} min"

    @property
    def cost(self) -> str:
        return "" if self.usd is None else f"${self.usd:.2f}"


class Chain(Part):
    """Rounds, each after the one that it started from; no file has it, it is read from their folders."""

    rounds: tuple[RoundOfChain, ...]
    missing: str | None = None  # a sentence, where a run folder of the chain is not there any more

    @property
    def sets(self) -> list[str]:
        """Names of all sets, in the order in which rounds came to have them."""
        return list(dict.fromkeys(name for one in self.rounds for name in one.sets))
