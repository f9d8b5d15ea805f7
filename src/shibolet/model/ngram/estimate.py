"""Interpolated modified Kneser-Ney (Chen and Goodman 1999, "An empirical study of smoothing techniques for language
modeling", sections 3 and 4; as lmplz has it: Heafield et al. 2013, "Scalable modified Kneser-Ney language model
estimation").

An order below the highest counts the tokens that came before, not how often it came itself; n-grams that begin a text
have no token before and keep their count. Unigrams are interpolated with one part in V for each of the V tokens.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from shibolet.errors import DataError
from shibolet.model.ngram.table import Ngram, NgramOrder

FALLBACK = (0.5, 1.0, 1.5)  # lmplz's, for counts that give none: a text of few sentences, or of the same ones
Discounts = tuple[float, float, float]  # of counts of 1, 2, and 3 or more


def estimate(texts: Sequence[Sequence[int]], order: int, vocab_size: int, end_id: int) -> tuple[Ngram, list[Discounts]]:
    """The n-gram of texts of ids below `vocab_size`, without their ends; and the discounts of each order.

    DataError where there is no text.
    """
    texts = [text for text in texts if len(text)]
    if not texts:
        raise DataError("an n-gram needs texts, and there are none")
    lengths = np.array([len(text) + 2 for text in texts])
    tokens = np.fromiter(
        chain.from_iterable((vocab_size, *text, end_id) for text in texts), np.int64, count=int(lengths.sum())
    )
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))  # tokens to the end of the text, itself too
    begins = np.zeros(len(tokens), bool)
    begins[np.cumsum(lengths) - lengths] = True
    found = _counted(tokens, left, begins, order, vocab_size)
    orders: list[NgramOrder] = []
    discounts, below, unknown = [], np.array([1 / vocab_size]), 0.0
    for k, (prefix, token, suffix, counts) in enumerate(found):
        discounts.append(discounts_of(counts))
        taken = np.array([0.0, *discounts[-1]])[np.minimum(counts, 3)]
        num_contexts = len(found[k - 1][0]) if k else 1
        totals = np.bincount(prefix, counts, num_contexts)
        rest = np.bincount(prefix, taken, num_contexts)  # of each context, what its children leave to the order below
        has_children = totals > 0
        totals[~has_children], rest[~has_children] = 1.0, 1.0
        if k:
            orders[-1] = _with_backoff(orders[-1], np.log(rest / totals))
        else:
            unknown = float(np.log(rest[0] / totals[0] / vocab_size))
        below = (counts - taken) / totals[prefix] + (rest / totals)[prefix] * below[suffix]
        logp = np.where(counts > 0, np.log(below), -99 * np.log(10))  # the begin of a text never follows anything
        orders.append(NgramOrder(prefix, token, logp, np.zeros(len(token))))
    return Ngram.of(vocab_size, end_id, orders, unknown), discounts


def discounts_of(counts: np.ndarray) -> Discounts:
    """By how often counts of 1 to 4 occur (Chen and Goodman, equation 26); `FALLBACK` where these say nothing."""
    once, twice, thrice, four = (float(n) for n in np.bincount(np.minimum(counts, 5), minlength=6)[1:5])
    if not (once and twice and thrice):
        return FALLBACK
    share = once / (once + 2 * twice)
    found = (1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice)
    return found if all(0 < one <= most for most, one in enumerate(found, 1)) else FALLBACK


def _with_backoff(order: NgramOrder, backoff: np.ndarray) -> NgramOrder:
    return NgramOrder(order.prefix, order.token, order.logp, backoff)


def _counted(
    tokens: np.ndarray, left: np.ndarray, begins: np.ndarray, order: int, vocab_size: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """By order the places of prefixes, last tokens, places of suffixes, and counts as the formulas take them.

    `tokens` are texts end to end, `left` how many of each follow with it, `begins` where one begins.
    """
    found = []
    places = np.zeros(len(tokens) + 1, np.int64)  # of the n-gram of the order below that begins here: the empty one
    for k in range(1, order + 1):
        at = np.flatnonzero(left >= k)
        if not len(at):
            break  # no text is as long
        keys, first, place, raw = np.unique(
            places[at] * (vocab_size + 1) + tokens[at + k - 1], return_index=True, return_inverse=True,
            return_counts=True,
        )  # fmt: skip
        suffix = places[at[first] + 1] if k > 1 else np.zeros(len(keys), np.int64)
        found.append((keys // (vocab_size + 1), keys % (vocab_size + 1), suffix, raw, begins[at[first]]))
        places = np.zeros(len(tokens) + 1, np.int64)
        places[at] = place
    counted = []
    for k, (prefix, token, suffix, raw, is_begin) in enumerate(found):
        counts = raw
        if k + 1 < len(found):
            before = np.bincount(found[k + 1][2], minlength=len(raw))
            counts = np.where(is_begin, raw, before)
        counts = np.where((token == vocab_size) & (k == 0), 0, counts)
        counted.append((prefix, token, suffix, counts))
    return counted
