"""How far two hearers have to agree before a text of theirs may train, from clips whose text is known.

They agree where they write the same letters, or where one finds the other's text nearly as likely as its own: it may
write something else and know better when it is told. Which limit shows few false accepts and lets most right texts pass
is chosen among a few, so the bounds of all of them hold together (Bonferroni): the choice does not flatter the one that
is chosen. Clips of one speaker or recording, and a clip
and its damaged copy, share their fate: the count behind a bound is one of clips, less by the design effect of groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.label.config import LETTERS, LEVEL, NUM_LIMITS, SURPRISE
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import By, Step, Threshold
from shibolet.scoring.counts import count_chars, count_words
from shibolet.scoring.intervals import cluster_sums
from shibolet.scoring.rates import clopper_pearson
from shibolet.speech.text import Language
from shibolet.speech.text.reading import compare
from shibolet.speech.text.rules import letters_of


@dataclass(frozen=True, slots=True)
class Tried:
    """A clip with a known text, as it is or damaged."""

    clip: str  # the same of a clip and its copies
    group: str  # who speaks, or the recording
    disagreement: float  # 0: letter by letter the same
    is_wrong: bool  # letting it pass would be a false accept
    surprise: float | None = None  # nats a token; None: nobody can tell


def choose_limit(tried: Sequence[Tried], max_false_accept_pct: float, *, of_all: bool = False) -> Threshold:
    """Of the limits whose share of false accepts is shown to be at most this the one that most right texts pass.

    The share is of what passes; `of_all`: of everything that was tried, which then is all wrong.
    """
    steps = [_step(tried, "letters", limit, of_all) for limit in LETTERS]
    if tried and all(one.surprise is not None for one in tried):
        steps += [_step(tried, "surprise", limit, of_all) for limit in SURPRISE]
    passing = [step for step in steps if step.upper_pct <= max_false_accept_pct]
    best = max(
        passing, key=lambda one: (one.accepted - one.false_accepts, one.by == "letters", one.limit), default=None
    )
    return Threshold(
        limit=best and best.limit, by=best.by if best else "letters", clips=len({one.clip for one in tried}),
        steps=tuple(steps),
    )  # fmt: skip


def _step(tried: Sequence[Tried], by: By, limit: float, of_all: bool) -> Step:
    passes = np.array([(one.disagreement if by == "letters" else one.surprise) <= limit for one in tried], dtype=bool)
    wrong = np.array([one.is_wrong for one in tried], dtype=bool)
    counted = [one for one, is_in in zip(tried, passes) if is_in or of_all]
    is_false = (wrong & passes)[passes | of_all].astype(float)
    return Step(
        limit=limit, by=by, accepted=int(passes.sum()), false_accepts=int(is_false.sum()),
        upper_pct=round(100 * _upper(is_false, [one.group for one in counted], [one.clip for one in counted]), 3),
    )  # fmt: skip


def _upper(is_false: np.ndarray, groups: Sequence[str], clips: Sequence[str]) -> float:
    """Upper end of a share's one-sided interval; 1 where there is nothing."""
    if not len(is_false):
        return 1.0
    rate = float(is_false.mean())
    level = 1 - 2 * (1 - LEVEL) / NUM_LIMITS  # two-sided, of which the upper end is used
    return clopper_pearson(rate, len(set(clips)) / _design_effect(is_false, groups, rate), level)[1]


def _design_effect(is_false: np.ndarray, groups: Sequence[str], rate: float) -> float:
    """Variance of the share over groups against that of as many clips of their own (Kish, 1965); at least 1."""
    sizes = cluster_sums(np.ones(len(is_false)), groups)
    if len(sizes) < 2 or not 0 < rate < 1:
        return 1.0
    spread = cluster_sums(is_false - rate, groups)
    variance = float((spread**2).sum()) * len(sizes) / (len(sizes) - 1)
    return max(1.0, variance / (len(is_false) * rate * (1 - rate)))


def surprise(row: Audited) -> float | None:
    """Nats a token by which the other hearer finds a row's text less likely than what it heard; None: not known."""
    return None if row.text_score is None else max(0.0, -row.text_score)


def letters_apart(words: Sequence[str], heard: str, language: Language) -> float:
    """Letters that differ between a text's words and a hypothesis in their nearest readings, of the text's; at most 1.

    It is the `cer` of an audit's row, of texts that nobody laid beside audio.
    """
    compared = compare(words, heard, language)
    text, said = letters_of("".join(compared.text)), letters_of("".join(compared.heard))
    return min(1.0, count_chars(text, said).errors / max(1, len(text)))


def is_false_accept(truth: str, text: str, max_wer: float, language: Language) -> bool:
    """Whether letting `text` pass would be one: where nothing is said, any word is."""
    counts = count_words(language.to_scoring(truth), language.to_scoring(text))
    return counts.errors > max_wer * counts.reference_length
