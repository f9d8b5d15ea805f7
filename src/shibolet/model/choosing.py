"""How rows choose their next tokens: the likeliest, or one that is drawn; a repetition can be made less likely.

All of it is tensor operations on the rows' device, which a graph can replay: the host waits for nothing.

Shapes: R rows, r rows of a call, V vocabulary, P periods.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from shibolet.model.fast.device import send_to
from shibolet.model.protocols import Decoded, Draw, Sampled

PERIODS = 8  # tokens of the longest phrase whose repetition is seen
REPEATS = 3  # in a row are said by people too; from then on the bias works
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64
_BITS = 23  # of a number between 0 and 1, which float32 holds exactly


class Choosing:
    """The next tokens of R rows; with `draws` each row has a key, a temperature and the log-probability of its text."""

    def __init__(self, num_rows: int, device: torch.device, *, repeat_bias: float = 0.0, draws: bool = False) -> None:
        zeros = lambda *size, dtype=torch.long: torch.zeros(size, dtype=dtype, device=device)  # noqa: E731
        self._device, self._bias = device, repeat_bias
        self._periods = torch.arange(1, PERIODS + 1, device=device)
        self._last = zeros(num_rows, PERIODS)  # tokens of each row, the last one first; -1: none yet
        self._run = zeros(num_rows, PERIODS)  # how many of them, from the last one back, equal the one a period before
        self._key, self._num, self._temperature = zeros(num_rows), zeros(num_rows), zeros(num_rows, dtype=torch.float32)
        # Of what each row has written, at temperature 1 and without the bias. None: nobody draws.
        self.logp = zeros(num_rows, dtype=torch.float32) if draws else None

    def begin(self, at: Tensor, seeds: Sequence[int] = (), temperatures: Sequence[float] = ()) -> None:
        """The rows `at` begin other texts; of clips of these seeds as many rows each as there are temperatures.

        A temperature of 0 chooses the likeliest token.
        """
        self._last.index_fill_(0, at, -1)
        self._run.index_fill_(0, at, 0)
        if self.logp is None:
            return
        self._num.index_fill_(0, at, 0)
        self.logp.index_fill_(0, at, 0)
        keys = [
            np.random.SeedSequence((seed, sample)).generate_state(1, np.uint64)
            for seed in seeds
            for sample in range(len(temperatures))
        ]
        self._key[at] = send_to(self._device, torch.from_numpy(np.concatenate(keys).view(np.int64)))
        self._temperature[at] = send_to(self._device, torch.tensor([*temperatures] * len(seeds), dtype=torch.float32))

    def __call__(self, logits: Tensor, at: Tensor | slice, going: Tensor | None = None) -> Tensor:
        """Tokens `[r]` of the rows `at` by their logits `[r, V]`; those that are not `going` have ended before."""
        allowed = self._with_bias(logits, at) if self._bias else logits
        chosen = allowed.argmax(-1)
        if self.logp is not None:
            chosen = self._drawn(allowed, chosen, at)
            own = logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            self.logp[at] += own if going is None else torch.where(going, own, 0.0)
            self._num[at] += 1
        if self._bias:
            last = self._last[at]
            self._run[at] = torch.where(last == chosen[:, None], self._run[at] + 1, 0)
            self._last[at] = torch.cat((chosen[:, None], last[:, :-1]), 1)
        return chosen

    def _with_bias(self, logits: Tensor, at: Tensor | slice) -> Tensor:
        """Logits, less the bias for each repeat from the third on where a token would go on with a repetition."""
        repeats = self._run[at] // self._periods + 1  # of the last 1, 2 ... P tokens
        lower = self._bias * (repeats - REPEATS + 1).clamp(min=0)
        next_ = self._last[at].clamp(min=0)  # what stands a period before; where none does, nothing is taken off
        return logits.scatter_reduce(1, next_, logits.gather(1, next_) - lower.to(logits.dtype), "amin")

    def _drawn(self, logits: Tensor, likeliest: Tensor, at: Tensor | slice) -> Tensor:
        """Where the cumulative distribution reaches a number that is uniform between 0 and 1; one number a token."""
        temperature = self._temperature[at]
        is_drawn = temperature > 0
        scaled = logits.float() / torch.where(is_drawn, temperature, 1.0)[:, None]
        cumulative = scaled.softmax(-1).cumsum(-1)
        reached = uniform(self._key[at], self._num[at]) * cumulative[:, -1]
        drawn = torch.searchsorted(cumulative, reached[:, None], right=True).clamp(max=logits.shape[1] - 1)
        # A parallel sum may fall by a last bit where a token has no probability, and be reached there.
        is_drawn &= logits.gather(1, drawn)[:, 0] > -torch.inf
        return torch.where(is_drawn, drawn[:, 0], likeliest)


def uniform(key: Tensor, count: Tensor) -> Tensor:
    """Numbers between 0 and 1, both excluded, by keys and counts alone: SplitMix64 (Steele, Lea and Flood 2014)."""
    state = key + count * _signed(_INCREMENT)
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    state = state ^ _shifted(state, 31)
    return (_shifted(state, 64 - _BITS).float() + 0.5) / 2**_BITS


def _signed(number: int) -> int:
    """The 64-bit number of the same bits that torch's integers, which wrap around, know."""
    return number - (1 << 64)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def samples_of(found: Iterable[Decoded], num_rows: int) -> Iterator[Sampled]:
    """What was written in rows, `num_rows` a clip and the greedy one first, by clip as soon as all of it is there."""
    waiting: dict[int, dict[int, Draw]] = {}
    for one in found:
        place, row = divmod(one.place, num_rows)
        own = waiting.setdefault(place, {})
        own[row] = Draw(one.ids, math.nan if one.logp is None else one.logp, one.ending)
        if len(own) == num_rows:
            greedy, *texts = (own[row] for row in range(num_rows))
            del waiting[place]
            yield Sampled(place, greedy, tuple(texts))
