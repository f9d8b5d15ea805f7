"""The next token of a row: drawn by its probability, from numbers that hang on key and count alone, or held back."""

import numpy as np
import pytest
import torch

from shibolet.model.choosing import Choosing, uniform

CPU = torch.device("cpu")


def split_mix(key: int, count: int) -> float:
    """SplitMix64 as its authors have it, in Python's whole numbers."""
    mask = 2**64 - 1
    state = (key + count * 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return (((state ^ (state >> 31)) >> 41) + 0.5) / 2**23


def test_uniform_numbers_are_those_of_split_mix():
    """Protects from shifts that drag the sign along, and from a number that is 0 or 1."""
    keys = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)
    keys[:3] = -(2**63), -1, 0
    for count in (0, 1, 447):
        found = uniform(torch.from_numpy(keys), torch.full((1000,), count))
        assert found.tolist() == [split_mix(int(key) % 2**64, count) for key in keys]
        assert 0 < found.min() and found.max() < 1 and abs(found.mean() - 0.5) < 0.03


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_are_likely(temperature):
    """Protects from a temperature that is multiplied, and from a draw that is a place off; a barred token never comes.

    Of 20,000 draws a share is within 0.015 of its probability in all but one of 10,000 tests.
    """
    logits = torch.tensor([0.3, -torch.inf, 2.0, -1.0, 0.0, -torch.inf]).repeat(20_000, 1)
    choosing = Choosing(len(logits), CPU, draws=True)
    choosing.begin(torch.arange(len(logits)), [7], [temperature] * len(logits))
    for _ in range(2):  # the second token of a row is drawn anew
        chosen = choosing(logits, slice(None))
        shares = chosen.bincount(minlength=6) / len(logits)
        assert torch.allclose(shares, (logits[0] / temperature).softmax(-1), atol=0.015)
        assert shares[1] == shares[5] == 0
    assert torch.allclose(choosing.logp.exp().max(), logits[0].softmax(-1).max() ** 2)


def test_a_temperature_of_zero_takes_the_likeliest_and_the_lowest_of_equals():
    logits = torch.tensor([[0.0, 5.0, 5.0], [1.0, 0.0, 0.0]])
    choosing = Choosing(4, CPU, draws=True)
    choosing.begin(torch.tensor([3, 1]), [7], [0.0, 0.0])
    assert choosing(logits, torch.tensor([3, 1])).tolist() == [1, 0]


def held_back(logits: np.ndarray, written: list[int], bias: float) -> np.ndarray:
    """The guard as it is said: by what is written, in plain loops."""
    lowered = logits.copy()
    for period in range(1, 9):
        phrase, times = written[len(written) - period :], 0
        while len(phrase) == period and written[: len(written) - period * times][-period:] == phrase:
            times += 1
        if times >= 3:
            lowered[phrase[0]] = min(lowered[phrase[0]], logits[phrase[0]] - bias * (times - 2))
    return lowered


def test_the_bias_is_that_of_plain_loops():
    """Protects from a period that is counted one off, tokens of a former text, and id 0 taken for none written."""
    rng, bias, rows, tokens = np.random.default_rng(0), 0.75, 40, 3
    choosing = Choosing(rows, CPU, repeat_bias=bias)
    seen = set()
    for _ in range(2):
        choosing.begin(torch.arange(rows))
        written = [[] for _ in range(rows)]
        habits = [rng.integers(0, tokens, rng.integers(1, 11)) for _ in range(rows)]  # some longer than the guard sees
        for step in range(40):
            logits = rng.standard_normal((rows, tokens)).round(2)
            for row, habit in enumerate(habits):
                logits[row, habit[step % len(habit)]] += 3
            expected = [int(held_back(own, text, bias).argmax()) for own, text in zip(logits, written, strict=True)]
            assert choosing(torch.from_numpy(logits), slice(None)).tolist() == expected
            for text, token, own in zip(written, expected, logits, strict=True):
                seen.add(token == own.argmax())
                text.append(token)
    assert seen == {True, False}, "the bias must decide sometimes, or it is not tested"


def test_the_bias_changes_no_probability_that_is_told():
    """What a model finds likely is told as it is; the guard is ours."""
    logits = torch.tensor([[2.0, 0.0]])
    choosing = Choosing(1, CPU, repeat_bias=9.0, draws=True)
    choosing.begin(torch.arange(1), [7], [0.0])
    written = [choosing(logits, slice(None)).item() for _ in range(5)]
    assert written == [0, 0, 0, 1, 0]
    assert choosing.logp.item() == pytest.approx(logits[0].log_softmax(-1)[written].sum().item())
