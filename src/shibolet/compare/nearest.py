"""The difference of two candidates in the nearest reading, as said and not as written; it decides nothing."""

from collections.abc import Mapping, Sequence

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import (
    Names,
    Pair,
    block_of,
    counted_of,
    other_language_sentence,
    pair_rows,
    sentence_of,
)
from shibolet.records.documents.comparison import NearestReading
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import group
from shibolet.speech.text import Language

Rows = tuple[Sequence[ScoredRow], Sequence[ScoredRow]]  # of baseline and candidate
Languages = Mapping[str, Language]  # by set


def nearest_reading(
    own: Rows, other: Rows, names: Names, config: CompareConfig, languages: Languages
) -> NearestReading | None:
    """All sets whose language is known, in the recipe's language and in others; None where it changes no count.

    A training teaches the references' way of writing, of numbers above all. What is left here was heard better.
    """
    titles = names[0].title, names[1].title
    written, read = zip(*(_pairs(rows, titles, languages) for rows in (own, other)), strict=True)
    if all(_counts(before) == _counts(after) for before, after in zip(written, read, strict=True)):
        return None
    pairs, others = read
    by_set = group([*pairs, *others], lambda pair: pair.baseline.set)
    blocks = {name: block_of(members, config) for name, members in by_set.items()}
    sentences = [
        other_language_sentence(name, blocks[name]) for name in dict.fromkeys(pair.baseline.set for pair in others)
    ]
    if pairs:
        sentences.insert(0, sentence_of(block_of(pairs, config).wer, titles, counted_of(pairs)))
    return NearestReading(
        overall=block_of(pairs, config) if pairs else None,
        sets=blocks,
        sentences=[f"With numbers as they are said and spelled words as their letters: {one}" for one in sentences],
    )


def _pairs(rows: Rows, titles: tuple[str, str], languages: Languages) -> tuple[list[Pair], list[Pair]]:
    """The utterances of sets whose language is known, as written and in the nearest reading."""
    from shibolet.scoring.nearest import in_nearest_reading  # numpy: kept out of `shibolet --help`

    pairs = pair_rows(*rows, titles) if any(rows) else []
    by_set = group((pair for pair in pairs if pair.baseline.set in languages), lambda pair: pair.baseline.set)
    read: tuple[list[ScoredRow], list[ScoredRow]] = [], []
    for name, members in by_set.items():
        sides = [[pair.baseline for pair in members], [pair.candidate for pair in members]]
        for side, near in zip(read, in_nearest_reading(sides, languages[name]), strict=True):
            side += near
    return [pair for own in by_set.values() for pair in own], pair_rows(*read, titles) if read[0] else []


def _counts(pairs: Sequence[Pair]) -> list:
    return [(pair.baseline.words, pair.candidate.words) for pair in pairs]
