"""What happens to a training utterance in an epoch, drawn from (seed, epoch, utterance id) and nothing else.

So a resume, another number of workers, of ranks or of packs hears the same.
"""

from dataclasses import dataclass

import numpy as np

from shibolet.model.protocols import SpecMask
from shibolet.speech import augment as channel
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.packets import through_call
from shibolet.train.config import AugmentConfig, CodecConfig, NoiseConfig, PauseConfig, SpecAugmentConfig
from shibolet.train.data import TrainExample, samples_at
from shibolet.train.draws import Stream, generator

_TELEPHONE_HZ = (300.0, 3400.0)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The draws of one utterance in one epoch."""

    config: AugmentConfig
    seed: int
    epoch: int
    utterance_id: str

    @property
    def speed(self) -> float:
        """The factor by which the utterance is faster; known before its audio is, because it decides the length."""
        speeds = self.config.speeds
        return float(speeds[self._rng(Stream.SPEED).integers(len(speeds))]) if speeds else 1.0

    @property
    def pauses(self) -> tuple[int, int]:
        """Samples of quiet before and after what is said."""
        return _drawn_pauses(self.config.pauses, self._rng(Stream.PAUSE)) if self.config.pauses else (0, 0)

    def num_samples(self, given: int) -> int:
        """How many samples this epoch hears of so many; known before its audio is."""
        return samples_at(self.speed, given) + sum(self.pauses)

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """The samples as this epoch hears them, `num_samples` of them."""
        if (speed := self.speed) != 1.0:
            wanted = samples_at(speed, len(samples))
            samples = channel.change_speed(samples, speed)[:wanted]
            samples = np.pad(samples, (0, wanted - len(samples)))
        spoken = samples
        if self.config.pauses:
            rng = self._rng(Stream.PAUSE)
            samples = channel.add_quiet(samples, _drawn_pauses(self.config.pauses, rng), rng)
        if self.config.noise:
            samples = _noisy(samples, spoken, self.config.noise, self._rng(Stream.NOISE))
        if self.config.codec:
            samples = _coded(samples, self.config.codec, self._rng(Stream.CODEC), self._rng(Stream.LOSS))
        return samples

    def mask(self, num_frames: int, num_bins: int) -> SpecMask:
        """What is blanked out of the features."""
        if self.config.spec_augment is None:
            return SpecMask()
        return _masked(num_frames, num_bins, self.config.spec_augment, self._rng(Stream.SPEC))

    def _rng(self, stream: Stream) -> np.random.Generator:
        return generator(self.seed, self.epoch, self.utterance_id, stream)


def augmentation_of(config: AugmentConfig | None, seed: int, example: TrainExample, epoch: int) -> Augmentation | None:
    """What the epoch does to an utterance; one that would be too long at some speeds or with pauses has none such."""
    if config is None:
        return None
    if not all(map(example.fits_at, config.speeds)):
        config = config.model_copy(update={"speeds": tuple(filter(example.fits_at, config.speeds))})
    if config.pauses and not example.fits_at(config.slowest_speed, config.longest_pauses_s):
        config = config.model_copy(update={"pauses": None})
    return Augmentation(config, seed, epoch, example.id)


def _drawn_pauses(config: PauseConfig, rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() >= config.share:
        return 0, 0
    before, after = (round(pause_s * SAMPLE_RATE_HZ) for pause_s in rng.uniform(0, config.most_s, 2))
    return before, after


def _noisy(samples: np.ndarray, spoken: np.ndarray, config: NoiseConfig, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= config.share:
        return samples
    kind = config.kinds[rng.integers(len(config.kinds))]
    return channel.add_noise(samples, rng.uniform(*config.snr_db), kind, rng, spoken)


def _coded(
    samples: np.ndarray, config: CodecConfig, rng: np.random.Generator, loss_rng: np.random.Generator
) -> np.ndarray:
    if rng.random() >= config.share:
        return samples
    name = config.channels[rng.integers(len(config.channels))]
    if name == "telephone":
        return channel.band_limit(samples, *_TELEPHONE_HZ)
    bitrate_bps, loss = round(1000 * rng.uniform(*config.bitrate_kbps)), config.packet_loss
    if loss is None or name != "opus" or loss_rng.random() >= loss.share:
        return channel.through_codec(samples, name, bitrate_bps)
    conceal = loss_rng.random() < loss.concealed_share
    mean_burst = loss.mean_burst[loss_rng.integers(len(loss.mean_burst))]
    loss_frac = loss_rng.uniform(*loss.loss_pct) / 100
    return through_call(samples, bitrate_bps, loss_frac, mean_burst, loss_rng, conceal=conceal)


def _masked(num_frames: int, num_bins: int, config: SpecAugmentConfig, rng: np.random.Generator) -> SpecMask:
    if rng.random() >= config.share:
        return SpecMask()

    def stretch(size: int, longest: int) -> tuple[int, int]:
        length = int(rng.integers(longest + 1))
        return int(rng.integers(size - length + 1)), length

    longest = int(config.max_time_frac * num_frames)
    return SpecMask(
        frames=tuple(stretch(num_frames, longest) for _ in range(config.num_time_masks)),
        bins=tuple(stretch(num_bins, min(config.max_bins, num_bins)) for _ in range(config.num_bin_masks)),
    )
