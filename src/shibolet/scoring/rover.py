"""Several systems' hypotheses of one utterance put to a vote word by word: ROVER (Fiscus, 1997, ASRU).

The systems are aligned one after another, in the order in which they are named, to a network of slots. A slot holds a
word, or none, of each system. A word w of a slot scores `alpha * N(w) / S + (1 - alpha) * C(w)` over S systems: N(w) of
them have it, and C(w) is the mean of their confidences. "No word" scores likewise, with a confidence that is given. At
equal scores the system that is named first wins. Words are those of the language's scoring text; what comes back is
written as a system wrote it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.scoring.sclite import DELETION, DIAGONAL, GAP, SUBSTITUTION, steps
from shibolet.speech.text.language import Language
from shibolet.speech.text.rules import without_brackets

# To pass by a slot where a system has no word already. 0 would open a new slot for a word (GAP) rather than let it
# stand in that one (SUBSTITUTION), so that systems which differ in a word would not vote on one slot.
PASS_NONE = GAP - 1


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is compared, of a written word that may have several ("set-up")."""

    text: str
    confidence: float | None
    written: str  # the written word, with the marks that stand alone after it
    first: int  # place of the written word's first word in the transcript
    num: int  # words of the written word


Slot = list[int | None]  # of each system the place of its word in its transcript


@dataclass(frozen=True, slots=True)
class Vote:
    """What an utterance comes to."""

    text: str
    num_slots: int
    num_unanimous: int  # slots in which all systems have the same word
    agreement: float | None  # mean share of systems behind what won, over slots; None: no system has a word


def transcript(text: str, language: Language, confidences: Sequence[float] | None = None) -> list[Word]:
    """The words of a hypothesis; `confidences` are of its words between spaces.

    Where a bracket that scoring leaves out reaches over several words, the mean of the confidences stands for each.
    """
    written = text.split()
    parts = [language.to_scoring(word).split() for word in written]
    if [word for own in parts for word in own] != language.to_scoring(text).split():
        written = without_brackets(text).split()
        parts = [language.to_scoring(word).split() for word in written]
        if confidences:
            confidences = [sum(confidences) / len(confidences)] * len(written)
    words, pending = [], []
    for place, (form, own) in enumerate(zip(written, parts, strict=True)):
        if own:
            pending.append((form, own, confidences[place] if confidences else None))
        elif pending and not any(map(str.isalnum, form)):  # a dash between spaces stays with the word before it
            pending[-1] = (f"{pending[-1][0]} {form}", *pending[-1][1:])
    for form, own, confidence in pending:
        first = len(words)
        words += [Word(text, confidence, form, first, len(own)) for text in own]
    return words


def vote(systems: Sequence[Sequence[Word]], *, alpha: float = 1.0, null_confidence: float = 0.0) -> Vote:
    """The words that win; `alpha` 1 counts systems alone, which wants no confidences."""
    slots = network([[word.text for word in words] for words in systems])
    won, votes, unanimous = [], 0, 0
    for slot in slots:
        entries = [None if at is None else systems[i][at] for i, at in enumerate(slot)]
        texts = [entry and entry.text for entry in entries]
        winner = max(dict.fromkeys(texts), key=lambda text: _score(text, entries, alpha, null_confidence))
        votes += texts.count(winner)
        unanimous += texts.count(winner) == len(texts)
        if winner is not None:
            won.append((winner, slot))
    return Vote(
        text=" ".join(_written(won, systems)),
        num_slots=len(slots),
        num_unanimous=unanimous,
        agreement=votes / (len(slots) * len(systems)) if slots else None,
    )


def _score(text: str | None, entries: Sequence[Word | None], alpha: float, null_confidence: float) -> float:
    """`max` takes the first of equals, and systems come in their order."""
    own = [entry for entry in entries if (entry and entry.text) == text]
    share = len(own) / len(entries)
    if alpha == 1:
        return share
    confidence = null_confidence if text is None else sum(entry.confidence for entry in own) / len(own)
    return round(alpha * share + (1 - alpha) * confidence, 12)  # equal but for rounding is equal


def network(systems: Sequence[Sequence[str]]) -> list[Slot]:
    """Slots in order; each system in turn is aligned to those of the systems before it.

    Weights are sclite's: 4 where a slot lacks the word, 3 for a new slot and for a slot without a word of this system.
    """
    number_of = {word: number for number, word in enumerate(dict.fromkeys(word for own in systems for word in own))}
    numbers = [np.array([number_of[word] for word in own], dtype=np.int64) for own in systems]
    slots: list[Slot] = []
    for system, own in enumerate(numbers):
        rows = []
        for slot in slots:
            has = np.isin(own, [numbers[i][at] for i, at in enumerate(slot) if at is not None])
            rows.append((SUBSTITUTION * ~has, PASS_NONE if None in slot else GAP))
        slots = _joined(slots, steps(rows, len(rows), np.full(len(own), GAP)), system, len(own))
    return slots


def _joined(slots: Sequence[Slot], came_from: np.ndarray, system: int, num_words: int) -> list[Slot]:
    """The slots with the words of one more system."""
    i, j, joined = len(slots), num_words, []
    while i or j:
        step = came_from[i, j]
        if step == DIAGONAL:
            i, j = i - 1, j - 1
            joined.append([*slots[i], j])
        elif step == DELETION:
            i -= 1
            joined.append([*slots[i], None])
        else:
            j -= 1
            joined.append([*[None] * system, j])
    return joined[::-1]


def _written(won: Sequence[tuple[str, Slot]], systems: Sequence[Sequence[Word]]) -> Iterable[str]:
    """As the first system that has it writes each word; one that it writes together with a loser stands as compared."""
    place = 0
    while place < len(won):
        text, num = won[place][0], 1
        for system, words in enumerate(systems):
            at = won[place][1][system]
            if at is None or words[at].first != at or place + words[at].num > len(won):
                continue
            there = range(at, at + words[at].num)
            if all(
                slot[system] == k and words[k].text == winner
                for k, (winner, slot) in zip(there, won[place : place + len(there)])
            ):
                text, num = words[at].written, len(there)
                break
        yield text
        place += num
