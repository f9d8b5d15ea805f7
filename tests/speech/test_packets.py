"""Protects training and dose curves: losses have the stated rate and bursts, and only lost packets sound otherwise."""

from itertools import groupby, pairwise

import numpy as np
import pytest

from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.augment import encode, through_codec
from shibolet.speech.packets import PACKET_S, decode_with_losses, draw_losses, opus_packets, through_call

NUM_SAMPLES = 2 * SAMPLE_RATE_HZ + 123  # ends within a packet
FRAME = round(PACKET_S * SAMPLE_RATE_HZ)


def voice(seed: int = 0) -> np.ndarray:
    """A harmonic tone of gliding pitch: no packet of it is silent."""
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * (0.7 + seed) * time_s)) / SAMPLE_RATE_HZ
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 20))).astype(np.float32)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[P] whether each packet of 20 ms sounds otherwise: by more than a hundredth of its level."""
    num = len(before) // FRAME * FRAME
    level = lambda samples: np.sqrt(np.mean(samples[:num].reshape(-1, FRAME) ** 2, axis=1))  # noqa: E731
    return level(after - before) > 0.01 * level(before)


@pytest.mark.parametrize("mean_burst", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("loss_frac", [0.02, 0.2, 0.5])
def test_losses_have_the_rate_and_the_bursts_that_were_asked_for(loss_frac, mean_burst):
    """A chain that starts in the good state, or takes one probability for the other, loses too few or in other runs."""
    rng = np.random.default_rng(3)
    draws = [draw_losses(400, loss_frac, mean_burst, rng) for _ in range(250)]
    assert np.mean(draws) == pytest.approx(loss_frac, rel=0.15)
    assert np.mean([draw[0] for draw in draws]) == pytest.approx(loss_frac, abs=0.1)
    bursts = [len(list(run)) for draw in draws for lost, run in groupby(draw) if lost]
    assert np.mean(bursts) == pytest.approx(max(mean_burst, 1 / (1 - loss_frac)), rel=0.12)


@pytest.mark.parametrize("mean_burst", [1.0, 2.0, 4.0])
def test_what_is_lost_at_a_low_rate_is_lost_at_every_higher_one(mean_burst):
    """Points of a curve that lose different packets differ by luck too."""
    for seed in range(50):
        draws = [draw_losses(200, rate, mean_burst, np.random.default_rng(seed)) for rate in (0.0, 0.05, 0.1, 0.2, 0.4)]
        assert all((low <= high).all() for low, high in pairwise(draws))
        assert draws[-1].sum() > draws[1].sum()


def test_bursts_of_one_are_independent_losses():
    is_lost = draw_losses(100_000, 0.2, 1.0, np.random.default_rng(0))
    after_loss, after_arrival = is_lost[1:][is_lost[:-1]].mean(), is_lost[1:][~is_lost[:-1]].mean()
    assert after_loss == pytest.approx(after_arrival, abs=0.01)
    assert not draw_losses(1000, 0.0, 4.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("conceal", [True, False])
@pytest.mark.parametrize("bitrate_bps", [8000, 16000, 32000])  # the modes of Opus: narrow, wide, by transform
def test_length_and_place_stay_and_nothing_becomes_loud(bitrate_bps, conceal):
    """Left out and not named as lost, packets shorten the sound, and what is behind a gap comes out far too loud."""
    samples = voice()
    encoded = encode(samples, "opus", bitrate_bps)
    whole = decode_with_losses(encoded, no(encoded), NUM_SAMPLES, conceal=conceal)
    for seed in range(4):
        heard = through_call(samples, bitrate_bps, 0.3, 3.0, np.random.default_rng(seed), conceal=conceal)
        assert len(heard) == NUM_SAMPLES and heard.dtype == np.float32
        assert np.abs(heard).max() < 4 * np.abs(whole).max()  # packets that are left out: eight times
        same = ~changed(whole, heard)
        assert 0.05 < same.mean() < 0.9


def no(encoded: bytes) -> np.ndarray:
    return np.zeros(len(opus_packets(encoded)[0]), bool)


@pytest.mark.parametrize("bitrate_bps", [8000, 32000])
def test_without_a_loss_it_is_the_codec(bitrate_bps):
    """A loss of nothing would otherwise be a change of its own, and the first point of a dose curve another channel."""
    samples = voice()
    encoded = encode(samples, "opus", bitrate_bps)
    heard, inside = decode_with_losses(encoded, no(encoded), NUM_SAMPLES, conceal=False), slice(0, NUM_SAMPLES - FRAME)
    assert np.array_equal(heard[inside], through_codec(samples, "opus", bitrate_bps)[inside])


@pytest.mark.parametrize("conceal", [True, False])
def test_only_lost_packets_and_the_few_behind_them_differ(conceal):
    """Measured on the sound: what changes is where packets were lost, and a decoder finds back behind a gap."""
    samples = voice()
    encoded = encode(samples, "opus", 32000)
    is_lost = no(encoded)
    is_lost[[30, 31, 70]] = True
    whole, heard = (decode_with_losses(encoded, lost, NUM_SAMPLES, conceal=conceal) for lost in (no(encoded), is_lost))
    places = np.flatnonzero(changed(whole, heard))
    assert {30, 31, 70} <= set(places) and len(places) <= 30
    assert not changed(whole, heard)[:29].any()
    level = np.sqrt(np.mean(heard[31 * FRAME : 32 * FRAME - FRAME // 3] ** 2))
    assert level < 0.002 or conceal, "without concealment a gap is silent"
    of_whole = np.sqrt(np.mean(whole[30 * FRAME : 31 * FRAME - FRAME // 3] ** 2))
    first = np.sqrt(np.mean(heard[30 * FRAME : 31 * FRAME - FRAME // 3] ** 2))
    assert not conceal or first > 0.3 * of_whole, "concealed, the first lost packet goes on with the sound before it"


def test_one_generator_loses_the_same_packets_and_another_others():
    samples = voice()
    heard = [through_call(samples, 12000, 0.2, 2.0, np.random.default_rng(seed), conceal=True) for seed in (1, 1, 2)]
    assert np.array_equal(heard[0], heard[1]) and not np.array_equal(heard[0], heard[2])
    assert len(through_call(samples[:0], 12000, 0.2, 2.0, np.random.default_rng(0), conceal=True)) == 0
