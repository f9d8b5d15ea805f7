"""How each source and domain writes, before anything trains on it, and a sentence where sources write differently.

Texts are looked at as the sources give them, after `punctuation` and `letter_case` of the source. The intervals are of
ratios over groups of one speaker or recording, by the linearised variance of a ratio (Cochran, 1977, ch. 6).
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from shibolet.records.documents.prepared import Share, Writing, WritingStyle
from shibolet.records.groups import connected, keys_of
from shibolet.records.utterance import Utterance
from shibolet.speech.text.marks import count_marks, ends_in_mark

LOOKED_AT = 20_000  # texts of a source, spread over it; the same of a domain in it
MIN_GROUPS = 5  # of which there is an interval
MIN_TIMES, MIN_APART = 2.0, 0.02  # between two sources, before a difference is worth a sentence

_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7]")
_ASCII_GERESH = re.compile("(?<=[א-ת])['\"](?=[א-ת])|(?<=[א-ת])'")
_OWN_GERESH = re.compile("[\u05f3\u05f4]")
_LATIN = re.compile("[A-Za-zÀ-ÖØ-öø-ÿ]")

# What is counted in a text: how often, of how many.
COUNTS: dict[str, Callable[[str], tuple[int, int]]] = {
    "words_per_text": lambda text: (len(text.split()), 1),
    "marks_per_word": lambda text: (count_marks(text), len(text.split())),
    "ends_in_mark": lambda text: (ends_in_mark(text), 1),
    "words_with_digits": lambda text: (sum(any(map(str.isdigit, word)) for word in text.split()), len(text.split())),
    "capitals": lambda text: (own := sum(map(str.isupper, text)), own + sum(map(str.islower, text))),
    "latin_letters": lambda text: (len(_LATIN.findall(text)), sum(map(str.isalpha, text))),
    "pointed_words": lambda text: (sum(bool(_POINTS.search(word)) for word in text.split()), len(text.split())),
    "own_geresh": lambda text: (
        own := len(_OWN_GERESH.findall(text)),
        own + len(_ASCII_GERESH.findall(text.replace("\u2019", "'").replace("\u201d", '"'))),
    ),
}
# What a target keeps, so that a model would have to learn both: points and forms of geresh are one there.
COMPARED = {
    "marks_per_word": "punctuation marks a word",
    "ends_in_mark": "the share of texts that end in a mark",
    "words_with_digits": "the share of words with digits",
    "capitals": "the share of capitals",
    "latin_letters": "the share of Latin letters",
}


def writing_of(utterances: Sequence[Utterance]) -> Writing:
    """Every source, and its domains where it has several; with a sentence for each way in which two sources differ."""
    styles = _styles(utterances)
    advice = (
        "What trains on both learns both; tell the sources apart by a style word (style: in data.train), or have one "
        "writing (punctuation: none, letter_case: lower)"
    )
    return Writing(styles=styles, warnings=[f"{way}. {advice}" for way in _ways_apart(styles)])


def ways_apart(utterances: Sequence[Utterance]) -> list[str]:
    """A clause for each way in which two sources write differently."""
    return _ways_apart(_styles(utterances))


def _styles(utterances: Sequence[Utterance]) -> list[WritingStyle]:
    sources: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        sources.setdefault(utterance.source, []).append(utterance)
    counts_of = cache(_counts)  # a text is looked at for its source and for its domain
    styles = []
    for source, own in sources.items():
        styles.append(_style(source, None, own, counts_of))
        domains: dict[str, list[Utterance]] = {}
        for utterance in own:
            domains.setdefault(utterance.domain or "unknown", []).append(utterance)
        if len(domains) > 1:
            styles += [_style(source, domain, members, counts_of) for domain, members in domains.items()]
    return styles


def _counts(text: str) -> list[tuple[int, int]]:
    return [count(text) for count in COUNTS.values()]


def _style(
    source: str, domain: str | None, utterances: Sequence[Utterance], counts_of: Callable[[str], list[tuple[int, int]]]
) -> WritingStyle:
    looked_at = utterances[:: -(-len(utterances) // LOOKED_AT)]
    groups = connected([keys_of(f"id {u.id}", u.recording, u.speaker) for u in looked_at])
    _, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    counted = np.array([counts_of(u.text) for u in looked_at], dtype=float)  # [U, COUNTS, 2]
    sums = np.zeros((group_of.max() + 1, *counted.shape[1:]))
    np.add.at(sums, group_of, counted)
    shares = {name: _share(sums[:, at]) for at, name in enumerate(COUNTS)}
    return WritingStyle(source=source, domain=domain, texts=len(utterances), **shares)


def _share(sums: np.ndarray) -> Share:
    """The ratio of sums [K, 2] of groups, with its interval."""
    (top, whole), k = sums.sum(axis=0), len(sums)
    if not whole:
        return Share(rate=None, interval=None)
    rate = top / whole
    if k < MIN_GROUPS:
        return Share(rate=round(rate, 6), interval=None)
    error = math.sqrt(k / (k - 1) * np.sum((sums[:, 0] - rate * sums[:, 1]) ** 2)) / whole
    return Share(rate=round(rate, 6), interval=(round(max(0.0, rate - 1.96 * error), 6), round(rate + 1.96 * error, 6)))


def _ways_apart(styles: Sequence[WritingStyle]) -> list[str]:
    """Of each thing compared the source with the least against that with the most, where they differ.

    They do where the 95% intervals are apart, the higher is at least `MIN_TIMES` the lower, and it is `MIN_APART` above
    it. Of shares over a half, what is lacking is compared: 55% and 99% of texts end in a mark, so 45% and 1% do not.
    """
    found, whole = [], [style for style in styles if style.domain is None]
    for name, words in COMPARED.items():
        known = [(one.source, share) for one in whole if (share := getattr(one, name)).interval is not None]
        if len(known) < 2:
            continue
        (low_name, low), (high_name, high) = (pick(known, key=lambda one: one[1].rate) for pick in (min, max))
        times = max(_times(low.rate, high.rate), _times(1 - high.rate, 1 - low.rate) if low.rate > 0.5 else 0.0)
        if low.interval[1] < high.interval[0] and times >= MIN_TIMES and high.rate - low.rate >= MIN_APART:
            spans = ["{:.3f} ({:.3f} to {:.3f})".format(one.rate, *one.interval) for one in (low, high)]
            found.append(f"'{low_name}' and '{high_name}' write differently: {words} {spans[0]} and {spans[1]}")
    return found


def _times(low: float, high: float) -> float:
    return math.inf if low <= 0 < high else high / low if low > 0 else 0.0
