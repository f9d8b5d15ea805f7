"""Whose text trains: in each domain the writer's, or the listener's where known texts show that it hears better there.

Two hearers that agree say little that the writer does not know already: what it gets wrong is refused, or trains with
its own error. Where the other one hears better, its texts teach.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shibolet.label.agreement import letters_apart
from shibolet.label.config import LEVEL
from shibolet.records.audited import Audited
from shibolet.records.documents.labelled import Author
from shibolet.scoring.counts import count_words
from shibolet.scoring.intervals import difference_interval
from shibolet.speech.text import Language


@dataclass(frozen=True, slots=True)
class Scored:
    """A clip as it is, with its text and what both made of it."""

    domain: str
    group: str  # who speaks, or the recording
    truth: str
    written: str
    heard: str


def choose_authors(clips: Iterable[Scored], language: Language) -> list[Author]:
    """One for each domain, by name: the listener where the interval of its word errors less the writer's is below 0.

    The intervals of all domains hold together (Bonferroni). A domain of too few groups has none, and is the writer's.
    """
    domains: dict[str, list[Scored]] = {}
    for clip in clips:
        domains.setdefault(clip.domain, []).append(clip)
    level = 1 - (1 - LEVEL) / max(1, len(domains))
    return [_author(name, own, level, language) for name, own in sorted(domains.items())]


def _author(domain: str, clips: Sequence[Scored], level: float, language: Language) -> Author:
    read = language.to_scoring
    written, heard = (
        [count_words(read(one.truth), read(getattr(one, by))) for one in clips] for by in ("written", "heard")
    )
    found = difference_interval(written, heard, [one.group for one in clips], level=level)
    rates = [
        100 * sum(one.errors for one in own) / max(1, sum(one.reference_length for one in own))
        for own in (written, heard)
    ]
    interval = None if found.low is None else (round(100 * found.low, 3), round(100 * found.high, 3))
    return Author(
        domain=domain, clips=len(clips), writer_wer_pct=round(rates[0], 3), listener_wer_pct=round(rates[1], 3),
        interval_points=interval, by="listener" if interval and interval[1] < 0 else "writer",
    )  # fmt: skip


def as_listened(row: Audited, language: Language) -> Audited:
    """The row the other way round: the listener's text, and what the writer reads as what was heard."""
    if row.failure is not None:
        return row
    words = language.to_words(row.hypothesis).tokens
    if not words:
        return replace(row, failure="no_words", is_low_quality=True, cer=None)
    apart = letters_apart(words, row.text, language)
    return replace(row, text=row.hypothesis, words=words, hypothesis=row.text, cer=apart)
