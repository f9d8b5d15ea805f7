"""An utterance sounds the same in an epoch whoever reads it, and as the recipe says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tiny_run import tiny_config

from shibolet.errors import RecipeError
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.train.augment import Augmentation, augmentation_of
from shibolet.train.config import (
    AugmentConfig,
    CodecConfig,
    NoiseConfig,
    PacketLossConfig,
    PauseConfig,
    SpecAugmentConfig,
)
from shibolet.train.data import samples_at
from shibolet.train.reader import PackReader

FULL = AugmentConfig(
    speeds=(0.9, 1.0, 1.1), noise=NoiseConfig(share=1.0), codec=CodecConfig(share=1.0), spec_augment=SpecAugmentConfig()
)
PAUSES = AugmentConfig(pauses=PauseConfig(share=0.5, most_s=0.4))
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 16_000)).astype(np.float32)


def drawn(name: str = "a", config: AugmentConfig = FULL, seed: int = 0, epoch: int = 0) -> Augmentation:
    return Augmentation(config, seed, epoch, name)


def test_draws_follow_from_seed_epoch_and_id_alone():
    first = drawn().apply(TONE)
    assert first.dtype == np.float32 and np.array_equal(first, drawn().apply(TONE))
    for other in (drawn("b"), drawn(seed=1), drawn(epoch=1)):
        assert not np.array_equal(first, other.apply(TONE))
    assert drawn().mask(500, 128) == drawn().mask(500, 128) != drawn(epoch=1).mask(500, 128)


def test_one_effect_leaves_the_draws_of_another_alone():
    """With streams that are shared, the noise would follow the speed, and both the mask."""
    noise, mask = NoiseConfig(share=0.5), SpecAugmentConfig()
    alone, fast = AugmentConfig(noise=noise), AugmentConfig(noise=noise, speeds=(1.0, 1.0), spec_augment=mask)
    fates = Counter()
    for name in map(str, range(60)):
        assert np.array_equal(drawn(name, alone).apply(TONE), drawn(name, fast).apply(TONE))
        assert drawn(name, fast).mask(300, 128) == drawn(name, AugmentConfig(spec_augment=mask)).mask(300, 128)
        speed = drawn(name, AugmentConfig(speeds=(0.9, 1.1))).speed
        noisy = not np.array_equal(drawn(name, alone).apply(TONE), TONE)
        first = drawn(name, fast).mask(300, 128).frames[0][0] < 143
        fates[speed, noisy, first] += 1
    assert len(fates) == 8, "of three effects each is there with and without the others"


def test_the_length_is_known_before_the_audio_is():
    lengths = set()
    for name in map(str, range(12)):
        samples = drawn(name).apply(TONE)
        assert len(samples) == samples_at(drawn(name).speed, len(TONE))
        lengths.add(len(samples))
    assert lengths == {round(24_000 / 0.9), 24_000, round(24_000 / 1.1)}


def test_pauses_lie_at_both_ends_as_loud_as_the_quietest_there_is_and_all_else_stays():
    rng = np.random.default_rng(0)
    noisy = (TONE + 0.01 * rng.standard_normal(len(TONE))).astype(np.float32)
    noisy[8_000:12_000] = 0.02 * rng.standard_normal(4_000)  # the level of the room
    number = Counter()
    for name in map(str, range(80)):
        one, (before, after) = drawn(name, PAUSES), drawn(name, PAUSES).pauses
        heard = one.apply(noisy)
        assert len(heard) == one.num_samples(len(noisy)) == before + len(noisy) + after
        assert np.array_equal(heard[before : before + len(noisy)], noisy)
        assert np.array_equal(heard, drawn(name, PAUSES).apply(noisy)) and max(before, after) <= 6_400
        for quiet in (heard[:before], heard[before + len(noisy) :]):
            assert len(quiet) < 1_000 or 0.016 < quiet.std() < 0.022
        number[before + after > 0] += 1
        assert drawn(name, PAUSES).speed == 1.0 and drawn(name, FULL).pauses == (0, 0)
    assert 25 < number[True] < 55
    assert not drawn("0", AugmentConfig(pauses=PauseConfig(share=1.0))).apply(np.zeros(900, np.float32)).any()


def test_what_would_be_longer_than_a_family_takes_has_no_pauses(examples, monkeypatch):
    """A Whisper's 30 s are all that there is: a part of an utterance would train under the whole text."""
    monkeypatch.setattr(type(FAMILY), "max_samples", 24_000 + 14_400)
    config = AugmentConfig(speeds=(0.8, 1.0), pauses=PauseConfig(share=1.0, most_s=0.25))
    seen = Counter()
    for duration_s in np.linspace(0.5, 2.4, 200):
        example = replace(examples[0], duration_s=float(duration_s), id=f"{duration_s:.4f}")
        one = augmentation_of(config, 0, example, 0)
        assert one.num_samples(example.num_samples) <= example.longest(config) <= 24_000 + 14_400
        seen[sum(one.pauses) > 0, one.speed] += 1
    assert set(seen) == {(True, 0.8), (True, 1.0), (False, 1.0), (False, 0.8)}


def test_noise_is_as_loud_against_speech_with_pauses_as_without():
    noise = NoiseConfig(share=1.0, snr_db=(10, 10), kinds=("white",))
    config = AugmentConfig(noise=noise, pauses=PauseConfig(share=1.0, most_s=2.0))
    clip = TONE.copy()
    clip[8_000:9_000] = 0.0  # so that pauses are silent but for the noise
    for name in map(str, range(8)):
        one = drawn(name, config)
        heard, (before, after) = one.apply(clip), one.pauses
        power = np.mean((heard[before : len(heard) - after] - clip) ** 2)
        assert abs(10 * np.log10(np.mean(clip**2) / power) - 10) < 0.5
        assert before < 4_000 or abs(10 * np.log10(np.mean(heard[:before] ** 2) / power)) < 1, "it goes on in them"


def test_shares_ratios_and_bands_are_those_of_the_recipe():
    noise = AugmentConfig(noise=NoiseConfig(share=0.3, snr_db=(10, 20)))
    snrs = []
    for name in map(str, range(400)):
        difference = drawn(name, noise).apply(TONE) - TONE
        if difference.any():
            snrs.append(10 * np.log10(np.mean(TONE**2) / np.mean(difference**2)))
    assert 0.22 < len(snrs) / 400 < 0.38
    assert 9.9 < min(snrs) < 11 and 19 < max(snrs) < 20.1
    telephone = AugmentConfig(codec=CodecConfig(share=1.0, channels=("telephone",)))
    white = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    power = np.abs(np.fft.rfft(drawn(config=telephone).apply(white))) ** 2
    assert power[np.fft.rfftfreq(32_000, 1 / 16_000) > 5000].sum() < 1e-4 * power.sum()


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_codecs_take_every_bitrate_of_their_range(name: str):
    config = AugmentConfig(codec=CodecConfig(share=1.0, channels=(name,), bitrate_kbps=(6.0, 40.0)))
    for number in range(8):
        samples = drawn(str(number), config).apply(TONE)
        assert len(samples) == len(TONE) and 0.5 < np.mean(samples**2) / np.mean(TONE**2) < 1.5


def test_packets_are_lost_from_the_recipes_share_and_all_else_stays_as_it_was_drawn():
    """Drawn from the codec's stream, a loss would give every utterance another channel and bit rate than without it."""
    without = CodecConfig(share=1.0, channels=("opus", "telephone"))
    loss = PacketLossConfig(share=0.5, loss_pct=(20, 30), mean_burst=(2.0,))
    lossy = AugmentConfig(codec=without.model_copy(update={"packet_loss": loss}))
    tone, fates = TONE[:9_600], Counter()
    for name in map(str, range(80)):
        before, after = drawn(name, AugmentConfig(codec=without)).apply(tone), drawn(name, lossy).apply(tone)
        assert len(after) == len(tone)
        if not np.array_equal(before, after):
            assert np.array_equal(after, drawn(name, lossy).apply(tone))
            assert not np.array_equal(after, drawn(name, lossy, epoch=1).apply(tone))
            gaps = np.abs(after.reshape(-1, 320)).max(axis=1) < 0.003
            fates["silent" if gaps.any() else "concealed"] += 1
    assert all(4 <= fates[way] <= 18 for way in ("silent", "concealed")), (
        "half of 40 lose packets, half of these each way"
    )


def test_masks_stay_inside_and_within_their_size():
    sizes = Counter()
    for name in map(str, range(200)):
        mask = drawn(name).mask(300, 128)
        assert len(mask.frames) == len(mask.bins) == 2
        assert all(0 <= start and length <= 15 and start + length <= 300 for start, length in mask.frames)
        assert all(0 <= start and length <= 27 and start + length <= 128 for start, length in mask.bins)
        sizes.update(length for _, length in mask.frames)
    assert set(sizes) == set(range(16))


def test_packs_are_planned_with_the_lengths_that_an_epoch_hears(examples, prompt, loaded):
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, augment=AugmentConfig(speeds=(0.8, 1.25)), seed=4)
    for epoch in range(2):
        for example, length in zip(examples, reader.lengths(examples, epoch), strict=True):
            assert reader.pack([example], epoch).num_tokens == length != example.num_tokens
    assert reader.lengths(examples, 0) != reader.lengths(examples, 1)
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, augment=PAUSES, seed=4)
    longer = 0
    for example, length in zip(examples, reader.lengths(examples, 0), strict=True):
        assert reader.pack([example], 0).num_tokens == length >= example.num_tokens
        assert length <= example.tokens_of(example.longest(PAUSES)) == reader.longest_pack([example]).num_tokens
        longer += length > example.num_tokens
    assert 0 < longer < len(examples)


def test_the_longest_pack_has_every_utterance_at_the_slowest_speed(examples, prompt, loaded):
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, augment=AugmentConfig(speeds=(0.8, 1.25)), seed=4)
    for example in examples[:3]:
        pack, heard = reader.longest_pack([example]), reader.pack([example])
        assert pack.num_tokens == example.tokens_of(round(example.num_samples / 0.8)) > example.num_tokens
        assert pack.features.dtype == heard.features.dtype and pack.features.isfinite().all()


def test_what_cannot_be_meant_is_refused():
    for bad in (
        {}, {"speeds": (0.1,)}, {"noise": {"snr_db": (20, 5)}}, {"codec": {"bitrate_kbps": (2, 8)}},
        {"codec": {"packet_loss": {"loss_pct": (5, 70)}}}, {"codec": {"packet_loss": {"loss_pct": (9, 5)}}},
        {"codec": {"channels": ("mp3",), "packet_loss": {}}},
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=r"train\.augment"):
            AugmentConfig.model_validate(bad)
    assert tiny_config().augment is None
