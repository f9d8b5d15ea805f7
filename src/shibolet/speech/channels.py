"""Several channels to one: their average, except where it cancels what can be heard in them."""

import numpy as np

_CANCELS = 4.0  # the average has less than this part of the power that one channel alone would leave in it
_PART_SAMPLES = 1 << 14  # that are looked at by themselves: one voice of a recording may cancel, another not
_AUDIBLE_POWER = 1e-6  # of a sample: -60 dB
_AS_LOUD = 2.0  # in power: a channel that was taken before is kept while no other is louder than this


class Mixer:
    """Blocks of channels to mono blocks; `taken` says which channel stood for all of them, `None` for the average.

    The average of C channels of which one sounds has 1/C^2 of its power. Less than a quarter of that is left only where
    channels cancel each other, as with a cable of opposite phase: then the loudest channel is heard by itself.
    """

    def __init__(self) -> None:
        self.taken: int | None = None

    def mix(self, channels: np.ndarray) -> np.ndarray:
        """`[C, S]` to `[S]`."""
        with np.errstate(over="ignore", invalid="ignore"):  # samples that are none are refused later
            if len(channels) == 1:
                return channels[0] + np.float32(0)  # -0.0 becomes 0.0, as in an average
            parts = range(0, channels.shape[1], _PART_SAMPLES)
            return np.concatenate([self._mix(channels[:, at : at + _PART_SAMPLES]) for at in parts] or [channels[0]])

    def _mix(self, channels: np.ndarray) -> np.ndarray:
        num = len(channels)
        mono = (channels[0] + channels[1] + np.float32(0)) / 2 if num == 2 else channels.mean(axis=0)
        power = float(np.dot(mono, mono))
        loudest = max(powers := [float(np.dot(one, one)) for one in channels])
        is_heard = loudest > _AUDIBLE_POWER * channels.shape[1]
        if not (_CANCELS * num**2 * power < loudest and is_heard):  # NaN is no reason
            return mono
        if self.taken is None or powers[self.taken] * _AS_LOUD < loudest:
            self.taken = next(i for i, one in enumerate(powers) if one * _AS_LOUD >= loudest)
        return channels[self.taken].copy()

    @property
    def note(self) -> str | None:
        if self.taken is None:
            return None
        return f"its channels cancel each other: channel {self.taken + 1} was taken by itself where they do"
