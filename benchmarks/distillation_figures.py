"""Figures of `distillation.py` from scores: each model of each seed, and each stage beside the one before it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from shibolet.scoring.counts import EditCounts, count_words
from shibolet.scoring.intervals import difference_interval, differences, ratio_intervals
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.speech.text import get_language

TEACHER, PLAIN = "teacher", "plain"
BEFORE = {  # arm -> the one that it is laid beside
    "top_k": "texts", "on_policy": "top_k", "all_texts": "texts", "unaudited": "texts", "audited": "unaudited",
    "min_wer": "longer",
}  # fmt: skip
SETS = ("test_clean", "test_whatsapp")
Rows = Mapping[tuple[int, str], Sequence[ScoredRow]]  # by seed and arm


def texts_of(said: Mapping[str, str], right: Mapping[str, str], texts: Mapping[str, str]) -> dict:
    """How many texts of free speech there are, how wrong, and how many are not what the teacher wrote."""
    normalise = get_language("Hebrew").to_scoring
    pairs = [(normalise(said[id.rsplit("-", 1)[0]]), normalise(text)) for id, text in texts.items()]
    counts = sum((count_words(*pair) for pair in pairs), EditCounts())
    exchanged = sum(right[id] != text for id, text in texts.items())
    return {"texts": len(texts), "wer_pct": pct(counts.rate) if texts else None, "exchanged": exchanged}


def models(found: Mapping[tuple[int, str], tuple[dict, Sequence[ScoredRow]]]) -> Iterator[dict]:
    """A line a model of a seed."""
    for (seed, arm), (about, rows) in found.items():
        said = sum(len(row.said.split()) for row in rows)
        wer = {name: rate([row for row in rows if row.set == name]) for name in SETS}
        ratio = round(sum(len(row.heard.split()) for row in rows) / said, 3)
        yield {"seed": seed, "model": arm, "wer_pct": rate(rows), **wer, "length_ratio": ratio, **about}


def stages_of(arms: Sequence[str], seeds: Sequence[int], rows: Rows) -> Iterator[dict]:
    """A line an arm: beside the plain student and the teacher, and beside the arm before it."""
    counts = {arm: [row.words for seed in seeds for row in rows[seed, arm]] for arm in (TEACHER, *arms)}
    groups = [f"{seed} {group}" for seed in seeds for group in groups_of(rows[seed, TEACHER])]
    gap_of = differences(counts[TEACHER], counts[PLAIN])[:, None]

    def points(first: str, second: str) -> dict:
        made = difference_interval(counts[first], counts[second], groups)
        return {"points": pct(made.value), "interval": [pct(made.low), pct(made.high)]}

    def part_of_gap(first: str, second: str) -> dict:
        (made,) = ratio_intervals(differences(counts[second], counts[first])[:, None], gap_of, groups)
        line = {"pct": pct(made.value), "interval": [pct(made.low), pct(made.high)]}
        by_seed = []
        for seed in seeds:
            one, two, plain, teacher = (rate(rows[seed, arm]) for arm in (first, second, PLAIN, TEACHER))
            by_seed.append(100 * (one - two) / (plain - teacher) if plain != teacher else 0.0)
        if (num := len(seeds)) > 1:
            half = stdtrit(num - 1, 0.975) * np.std(by_seed, ddof=1) / num**0.5
            line["interval_over_seeds"] = [round(float(np.mean(by_seed) + sign * half), 2) for sign in (-1, 1)]
        return {**line, "by_seed": [round(value, 1) for value in by_seed]}

    yield {
        "gap": points(TEACHER, PLAIN),
        "groups": len(set(groups)),
        "words": sum(one.reference_length for one in counts[PLAIN]),
    }
    for arm in arms:
        line = {"arm": arm, "wer_pct": rate([row for seed in seeds for row in rows[seed, arm]])}
        line["closed"] = part_of_gap(PLAIN, arm)
        if (before := BEFORE.get(arm)) in arms:
            line["adds"] = {"to": before, **points(before, arm), "of_the_gap": part_of_gap(before, arm)}
        yield line


def rate(rows: Sequence[ScoredRow]) -> float:
    """WER in percent."""
    return round(100 * sum(row.words.errors for row in rows) / sum(row.words.reference_length for row in rows), 2)


def pct(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(100 * value, 2)
