"""Sound made worse by a measured amount: what a model is heard at to see how its errors grow.

What happens to a clip follows from its samples, the seed and the kind alone: at 20 dB and at 5 dB the same noise is
added, and a packet that is lost at 5% is lost at 10% too, so that the points of a curve differ by the dose.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shibolet.speech.augment import NOISE_KINDS, add_noise, through_codec
from shibolet.speech.packets import through_call

DoseKind = Literal["clean", "white", "pink", "babble", "opus", "packet_loss"]
UNITS: dict[str, str] = {**dict.fromkeys(NOISE_KINDS, "dB"), "opus": "kbps", "packet_loss": "%", "clean": ""}
_KINDS: tuple[DoseKind, ...] = ("clean", *NOISE_KINDS, "opus", "packet_loss")


@dataclass(frozen=True, slots=True)
class Dose:
    """One kind and amount; called with float32 mono samples at 16 kHz it gives as many."""

    kind: DoseKind
    amount: float = 0.0  # dB of SNR, kbps of Opus, percent of packets; clean has none
    seed: int = 0
    call_kbps: float = 16.0  # of Opus where packets are lost
    mean_burst: float = 1.0  # packets lost in a row on average; 1: independent

    @property
    def name(self) -> str:
        """Of a folder: babble-10dB, opus-8kbps, packet_loss-20pct."""
        return f"{self.kind}-{self.amount:g}{UNITS[self.kind].replace('%', 'pct')}".removesuffix("-0")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        of_clip = int.from_bytes(hashlib.sha256(samples.tobytes()).digest()[:8], "little")
        rng = np.random.default_rng([self.seed, _KINDS.index(self.kind), of_clip])
        if self.kind == "clean":
            return samples
        if self.kind == "opus":
            return through_codec(samples, "opus", round(1000 * self.amount))
        if self.kind == "packet_loss":  # libopus conceals, as receivers of calls do
            bitrate_bps, loss_frac = round(1000 * self.call_kbps), self.amount / 100
            return through_call(samples, bitrate_bps, loss_frac, self.mean_burst, rng, conceal=True)
        return add_noise(samples, self.amount, self.kind, rng)
