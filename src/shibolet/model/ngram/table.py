"""Probabilities of an n-gram as sorted arrays, and what it says of every next token after some contexts.

Shapes: R contexts, C tokens of a context, V vocabulary, M n-grams of an order.

N-grams of k tokens are sorted by the place of their first k - 1 among those of the order below, then by the last token:
what may follow a context lies side by side, and one n-gram is found by bisection. Tokens are ids of a model, V of them;
the begin of a text is the token V itself, and its end an id with which the model ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Rows = np.ndarray  # [R] of integers
Overrides = tuple[Rows, Rows, np.ndarray]  # rows, tokens, log-probabilities


@dataclass(frozen=True, slots=True)
class NgramOrder:
    """The n-grams of one order."""

    prefix: np.ndarray  # [M], place of the first tokens in the order below; 0 in the lowest
    token: np.ndarray  # [M], the last token
    logp: np.ndarray  # [M], natural logarithm
    backoff: np.ndarray  # [M], natural logarithm; 0 where nothing follows


@dataclass(frozen=True, slots=True)
class Ngram:
    """A back-off n-gram over `vocab_size` tokens and the begin of a text."""

    vocab_size: int
    end_id: int
    orders: Sequence[NgramOrder]
    unknown_logp: float  # of each token that the text of its estimation lacks
    keys: Sequence[np.ndarray]  # by order: prefix and token as one number, sorted

    @classmethod
    def of(cls, vocab_size: int, end_id: int, orders: Sequence[NgramOrder], unknown_logp: float) -> "Ngram":
        """With the keys of its orders, which are sorted."""
        keys = [order.prefix * (vocab_size + 1) + order.token for order in orders]
        return cls(vocab_size, end_id, orders, unknown_logp, keys)

    @property
    def begin_id(self) -> int:
        return self.vocab_size

    def find(self, order: int, prefix: Rows, token: Rows) -> Rows:
        """Places in an order (0: unigrams) of what follows places of the order below; -1: is not there."""
        keys, wanted = self.keys[order], prefix * (self.vocab_size + 1) + token
        if not len(keys):
            return np.full(len(wanted), -1)
        at = np.searchsorted(keys, wanted)
        found = (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == wanted)
        return np.where(found & (prefix >= 0), at, -1)

    def places(self, contexts: np.ndarray) -> list[Rows]:
        """By length 1, 2, ... the places of the ends of contexts `[R, C]`; a context shorter than C has -1 in front."""
        found = []
        for length in range(1, min(contexts.shape[1], len(self.orders) - 1) + 1):
            place = np.zeros(len(contexts), np.int64)
            for order in range(length):
                token = contexts[:, contexts.shape[1] - length + order]
                place = np.where(token >= 0, self.find(order, place, token), -1)
            found.append(place)
        return found

    def unigrams(self) -> np.ndarray:
        """Log-probabilities `[V]` without a context."""
        logps = np.full(self.vocab_size, self.unknown_logp)
        own = self.orders[0].token != self.begin_id
        logps[self.orders[0].token[own]] = self.orders[0].logp[own]
        return logps

    def after(self, contexts: np.ndarray) -> tuple[np.ndarray, list[Overrides]]:
        """What stands against `unigrams` after contexts `[R, C]`: what all tokens of a row lose `[R]`, and those of
        which a longer n-gram is known, the longest last."""
        places = self.places(contexts)
        losses = [np.where(at >= 0, self.orders[i].backoff[at], 0.0) for i, at in enumerate(places)]
        left = np.cumsum(np.vstack([np.zeros(len(contexts)), *losses[::-1]]), axis=0)[::-1]  # from a length on
        overrides = []
        for i, at in enumerate(places):
            known, below = np.flatnonzero(at >= 0), self.orders[i + 1]
            firsts = np.searchsorted(below.prefix, at[known])
            counts = np.searchsorted(below.prefix, at[known], side="right") - firsts
            rows = np.repeat(known, counts)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            own = np.repeat(firsts, counts) + within
            overrides.append((rows, below.token[own], below.logp[own] + left[i + 1][rows]))
        return left[0], overrides

    def logps(self, contexts: np.ndarray) -> np.ndarray:
        """Log-probabilities `[R, V]` of every next token after contexts `[R, C]`."""
        loss, overrides = self.after(contexts)
        found = self.unigrams()[None] + loss[:, None]
        for rows, tokens, values in overrides:
            found[rows, tokens] = values
        return found
