"""Which copies of the test sets show how errors grow with noise, lower bit rates and lost packets."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from shibolet.errors import RecipeError
from shibolet.records.config import Config
from shibolet.records.utterance import Utterance
from shibolet.speech.augment import NoiseKind
from shibolet.speech.doses import Dose

Amounts = tuple[float, ...]


class RobustnessConfig(Config):
    """Copies of some test utterances with noise, lower bit rates or lost packets, which both models of a round hear.

    An empty list leaves a kind out.
    """

    # Utterances of each set, always the same; those longer than `evaluate.max_piece_s` are left out
    utterances_per_set: int = Field(100, gt=0)
    # Kinds of noise; babble is noise with the spectrum of speech and its changes in level
    noises: tuple[NoiseKind, ...] = ("babble", "white")
    snr_db: Amounts = (30.0, 20.0, 10.0, 5.0, 0.0)  # signal-to-noise ratios in dB, for each kind of noise
    # Bit rates of Opus in kbit/s
    bitrate_kbps: tuple[Annotated[float, Field(ge=6, le=128)], ...] = (32.0, 16.0, 8.0, 6.0)
    # Percent of the packets that are lost; libopus conceals the gaps
    packet_loss_pct: tuple[Annotated[float, Field(gt=0, le=50)], ...] = (5.0, 10.0, 20.0, 40.0)
    call_kbps: float = Field(16.0, ge=6, le=128)  # bit rate in kbit/s of the Opus stream that loses packets
    mean_burst: float = Field(2.0, ge=1)  # packets of 20 ms lost in a row, on average; 1: losses are independent
    seed: int = Field(0, ge=0)  # seed of the choice of utterances, of the noise and of the losses

    @property
    def doses(self) -> tuple[Dose, ...]:
        """Clean copies first, then each kind from mild to strong."""
        noisy = [Dose(kind, snr, self.seed) for kind in self.noises for snr in sorted(self.snr_db, reverse=True)]
        coded = [Dose("opus", kbps, self.seed) for kbps in sorted(self.bitrate_kbps, reverse=True)]
        call = self.seed, self.call_kbps, self.mean_burst
        lossy = [Dose("packet_loss", pct, *call) for pct in sorted(self.packet_loss_pct)]
        return Dose("clean", seed=self.seed), *noisy, *coded, *lossy

    @model_validator(mode="after")
    def _doses_differ(self) -> Self:
        names = [dose.name for dose in self.doses]
        if len(names) == 1:
            raise RecipeError("robustness: no dose is left; give one of snr_db, bitrate_kbps and packet_loss_pct")
        if twice := [name for name in names if names.count(name) > 1]:
            raise RecipeError(f"robustness: {twice[0]} occurs twice")
        return self


def chosen(utterances: Sequence[Utterance], config: RobustnessConfig, max_piece_s: float) -> list[Utterance]:
    """So many of a set in its order, drawn by their ids alone: another set beside it, or a row more, changes little."""
    draw = lambda utterance: hashlib.sha256(f"{config.seed}/{utterance.id}".encode()).digest()  # noqa: E731
    short = [utterance for utterance in utterances if utterance.duration_s <= max_piece_s]
    kept = {utterance.id for utterance in sorted(short, key=draw)[: config.utterances_per_set]}
    return [utterance for utterance in short if utterance.id in kept]
