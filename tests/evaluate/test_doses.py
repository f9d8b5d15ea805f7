"""Copies that get worse by doses: protects from points that differ by chance, and from another choice a run."""

import numpy as np
import pytest
from made_audio import chirp

from shibolet.errors import RecipeError
from shibolet.evaluate.doses import RobustnessConfig, chosen
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.doses import Dose


def speechlike(seed: int = 0) -> np.ndarray:
    """Three seconds of a rising tone, one louder than the other."""
    return ((0.2 + 0.1 * seed) * chirp(3.0, 16_000)).astype(np.float32)


def utterances(num: int, duration_s: float = 3.0) -> list[Utterance]:
    return [
        Utterance(id=f"u{i}", audio=AudioRef(path=""), text="x", duration_s=duration_s + 10 * (i % 4), source="s")
        for i in range(num)
    ]


def test_the_same_utterances_are_chosen_in_their_order_and_a_row_more_changes_one_at_most():
    config, every = RobustnessConfig(utterances_per_set=20), utterances(200)
    found = chosen(every, config, max_piece_s=30.0)
    assert len(found) == 20 and found == [one for one in every if one in found]
    assert max(one.duration_s for one in found) < 30, "long-form recordings are heard in pieces, many times as long"
    ids = {one.id for one in found}
    assert {one.id for one in chosen(list(reversed(every)), config, 30.0)} == ids
    assert len(ids & {one.id for one in chosen(utterances(201), config, 30.0)}) >= 19
    assert ids != {one.id for one in chosen(every, RobustnessConfig(utterances_per_set=20, seed=1), 30.0)}


def test_noise_is_the_same_at_every_ratio_and_another_one_for_another_clip():
    samples = speechlike()
    loud, quiet = (Dose("white", snr_db)(samples) - samples for snr_db in (0.0, 20.0))
    assert np.allclose(loud, 10 * quiet, atol=1e-4)
    power = np.mean(samples**2)
    assert 10 * np.log10(power / np.mean(loud**2)) == pytest.approx(0, abs=0.1)
    other = Dose("white", 0.0)(speechlike(1)) - speechlike(1)
    assert abs(np.corrcoef(loud, other)[0, 1]) < 0.05
    assert not np.array_equal(Dose("babble", 0.0)(samples), Dose("white", 0.0)(samples))
    assert np.array_equal(Dose("clean")(samples), samples)


def test_what_is_lost_at_a_few_percent_is_lost_at_more_too_and_length_stays():
    """With losses drawn anew for each point a curve may fall where it should rise."""
    samples = speechlike()
    level = lambda heard: np.mean((heard - Dose("opus", 16.0)(samples)) ** 2)  # noqa: E731
    heard = [Dose("packet_loss", pct, mean_burst=1.0)(samples) for pct in (5.0, 20.0, 40.0)]
    assert all(len(one) == len(samples) for one in heard)
    errors = [level(one) for one in heard]
    assert errors == sorted(errors) and errors[0] < errors[2] / 2
    assert np.array_equal(heard[1], Dose("packet_loss", 20.0, mean_burst=1.0)(samples))


def test_doses_go_from_clean_to_strong_with_names_of_folders():
    config = RobustnessConfig(noises=("babble",), snr_db=(0.0, 30.0), bitrate_kbps=(8.0,), packet_loss_pct=(20.0, 5.0))
    names = [dose.name for dose in config.doses]
    assert names == ["clean", "babble-30dB", "babble-0dB", "opus-8kbps", "packet_loss-5pct", "packet_loss-20pct"]
    for bad, said in (
        ({"snr_db": (5.0, 5.0)}, "babble-5dB occurs twice"),
        ({"snr_db": (), "bitrate_kbps": (), "packet_loss_pct": ()}, "no dose is left"),
    ):
        with pytest.raises(RecipeError, match=said):
            RobustnessConfig.model_validate(bad)
