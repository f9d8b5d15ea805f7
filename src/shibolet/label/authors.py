"""Whose text trains: in each domain the writer's, or the listener's where known texts show that it hears better there.

Two hearers that agree say little that the writer does not know already: what it gets wrong is refused, or trains with
its own error. Where the other one hears better, its texts teach.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shibolet.label.agreement import letters_apart
from shibolet.label.config import LEVEL
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author, Unwritten
from shibolet.scoring.counts import count_words
from shibolet.scoring.intervals import cluster_sums, differences, lengths
from shibolet.speech.text import Language
from shibolet.speech.text.marks import count_marks, without_marks
from shibolet.speech.text.rules import has_words

EXACT = 14  # groups, of which all swaps are tried; of more so many
DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Scored:
    """A clip as it is, with its text and what both made of it."""

    domain: str
    group: str  # of a speaker or recording, and all that are connected with it
    truth: str
    written: str
    heard: str


def choose_authors(clips: Iterable[Scored], language: Language) -> list[Author]:
    """One for each domain, by name: the listener where it would seldom be as much better if the two were alike.

    Seldom is in 5% of such domains: where two are alike, it costs little whose text trains.
    """
    domains: dict[str, list[Scored]] = {}
    for clip in clips:
        domains.setdefault(clip.domain, []).append(clip)
    return [_author(name, own, language) for name, own in sorted(domains.items())]


def _author(domain: str, clips: Sequence[Scored], language: Language) -> Author:
    read = language.to_scoring
    written, heard = (
        [count_words(read(one.truth), read(getattr(one, by))) for one in clips] for by in ("written", "heard")
    )
    fewer = cluster_sums(-differences(written, heard), [one.group for one in clips])
    rates = [100 * sum(one.errors for one in own) / max(1.0, lengths(own).sum()) for own in (written, heard)]
    chance = chance_of(fewer)
    return Author(
        domain=domain, clips=len(clips), writer_wer_pct=round(rates[0], 3), listener_wer_pct=round(rates[1], 3),
        chance=round(chance, 6), by="listener" if chance <= 1 - LEVEL else "writer",
    )  # fmt: skip


def chance_of(fewer: np.ndarray) -> float:
    """How often the sum of `fewer` [K] would be as high if in each group the two might as well have been the other.

    It is the one-sided test by permutation of Fisher (1935): exact up to `EXACT` groups, of `DRAWS` draws beyond.
    """
    if len(fewer) <= EXACT:
        flips = (np.arange(2 ** len(fewer))[:, None] >> np.arange(len(fewer))) & 1
        return float(((1 - 2 * flips) @ fewer >= fewer.sum()).mean())
    rng, sums = np.random.default_rng(0), np.zeros(DRAWS)
    for one in fewer:
        sums += one * (1 - 2 * rng.integers(0, 2, DRAWS))
    return float((1 + (sums >= fewer.sum()).sum()) / (1 + DRAWS))


def lacking(texts: Sequence[str]) -> tuple[Unwritten, ...]:
    """What none of the texts has. Whether they lack capitals shows where they have small letters."""
    found: list[Unwritten] = [] if any(map(count_marks, texts)) else ["marks"]
    letters = "".join(texts)
    if letters != letters.upper() and letters == letters.lower():
        found.append("capitals")
    return tuple(found)


def without(text: str, unwritten: Sequence[Unwritten]) -> str:
    """The text as data would have it that lack these."""
    text = without_marks(text) if "marks" in unwritten else text
    return text.lower() if "capitals" in unwritten else text


def as_trained(row: Audited, author: Author | None, language: Language) -> Audited:
    """The row with the text that trains in its domain, None: the writer's.

    The listener's is as the data write, and what the writer reads is the hypothesis then.
    """
    if row.failure is not None or author is None or author.by == "writer":
        return row
    text = without(row.hypothesis, author.unwritten)
    words = language.to_words(text)
    if not words.num_verifiable or not has_words(text):  # as of any text that is to be checked
        return replace(row, failure="no_words", is_low_quality=True, cer=None)
    apart = letters_apart(words.tokens, row.text, language)
    return replace(row, text=text, words=words.tokens, hypothesis=row.text, cer=apart, text_score=None)
