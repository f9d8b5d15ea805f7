"""Punctuation as a result: PER of LibriSpeech-PC (Meister et al., 2023), precision, recall and F1 by mark.

Marks are compared between words that stand opposite each other: of all alignments with the fewest word edits one with
the fewest mark edits is taken, of these one with the most correct marks, and a mark never stands opposite a word. Where
several are left, a pair is preferred to an insertion and that to a deletion, read from the end.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from shibolet.records.documents.scores import MarkCounts, Punctuation
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.scoring.intervals import ratio_intervals
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.sclite import DELETION, DIAGONAL, steps
from shibolet.speech.text.language import Language
from shibolet.speech.text.marks import MARKS, Token, tokens

_WORD, _MARK, _NEVER = 10**12, 10**6, 10**14  # weights of an edit, each over all that can come below it

Pair = tuple[Token | None, Token | None]  # of the reference, of the hypothesis


def punctuation(rows: Sequence[ScoredRow], language: Language) -> Punctuation | None:
    """None where no reference has a mark: then nobody knows where they belong."""
    said = [tokens(row.reference, language.to_scoring) for row in rows]
    if not any(token.is_mark for own in said for token in own):
        return None
    heard = [tokens(row.hypothesis, language.to_scoring) for row in rows]
    counts = [count_marks(*pair) for pair in zip(said, heard, strict=True)]
    correct, edits = [_of(own, "correct") for own in counts], [_errors(own) for own in counts]
    tops = np.array(edits, dtype=float)[:, None]
    (per,) = ratio_intervals(tops, tops + np.array(correct, dtype=float)[:, None], groups_of(rows))
    total = sum(counts, Counter())
    return Punctuation(
        rate=per.value,
        interval=None if per.low is None else (max(0.0, per.low), per.high),
        errors=sum(edits),
        correct=sum(correct),
        **{f"{kind}s": _of(total, kind) for kind in ("substitution", "deletion", "insertion")},
        by_mark=[_by_mark(mark, total) for mark in MARKS if any(key[1] == mark for key in total)],
        punctuated_wer=_words((" ".join(_attached(own)) for own in said), (" ".join(_attached(own)) for own in heard)),
        verbatim_wer=_words((row.reference for row in rows), (row.hypothesis for row in rows)),
    )


def count_marks(said: Sequence[Token], heard: Sequence[Token]) -> Counter[tuple[str, str]]:
    """How often of each (kind, mark); a substitution stands with the reference's mark, and as "other" with its own."""
    found: Counter[tuple[str, str]] = Counter()
    for one, two in align_marks(said, heard):
        if one and two:
            if one == two:
                found["correct", one.text] += 1
            else:
                found["substitution", one.text] += 1
                found["other", two.text] += 1
        elif one:
            found["deletion", one.text] += 1
        elif two:
            found["insertion", two.text] += 1
    return found


def align_marks(said: Sequence[Token], heard: Sequence[Token]) -> list[Pair]:
    """Marks that stand opposite each other, or opposite nothing, in order."""
    if list(said) == list(heard):
        return [(token, token) for token in said if token.is_mark]
    number_of = {token: number for number, token in enumerate(dict.fromkeys((*said, *heard)))}
    numbers = np.array([number_of[token] for token in heard], dtype=np.int64)
    is_mark = np.array([token.is_mark for token in heard], dtype=bool)
    weights = np.where(is_mark, _MARK, _WORD)

    def row(token: Token) -> tuple[np.ndarray, int]:
        own = _MARK if token.is_mark else _WORD
        equal = -1 if token.is_mark else 0  # one more correct mark
        differs = np.where(is_mark == token.is_mark, own, _NEVER)
        return np.where(numbers == number_of[token], equal, differs), own

    came_from = steps(map(row, said), len(said), weights)
    i, j, aligned = len(said), len(heard), []
    while i or j:
        one = two = None
        if came_from[i, j] in (DIAGONAL, DELETION):
            one = said[i - 1]
        if came_from[i, j] != DELETION:
            two = heard[j - 1]
        i, j = i - (one is not None), j - (two is not None)
        if (one or two).is_mark:
            aligned.append((one, two))
    return aligned[::-1]


def _of(counts: Counter, kind: str) -> int:
    return sum(times for (own, _), times in counts.items() if own == kind)


def _errors(counts: Counter) -> int:
    return sum(_of(counts, kind) for kind in ("substitution", "deletion", "insertion"))


def _by_mark(mark: str, total: Counter) -> MarkCounts:
    correct, *wrong = (total[kind, mark] for kind in ("correct", "substitution", "deletion", "insertion"))
    reference = correct + wrong[0] + wrong[1]
    hypothesis = correct + total["other", mark] + wrong[2]
    return MarkCounts(
        mark=mark, reference=reference, hypothesis=hypothesis, correct=correct,
        substitutions=wrong[0], deletions=wrong[1], insertions=wrong[2],
        precision=correct / hypothesis if hypothesis else None,
        recall=correct / reference if reference else None,
        f1=2 * correct / (reference + hypothesis),
    )  # fmt: skip


def _attached(own: Iterable[Token]) -> list[str]:
    """Words with the marks after them: "yes," is another word than "yes"."""
    words: list[str] = []
    for token in own:
        if token.is_mark and words:
            words[-1] += token.text
        else:
            words.append(token.text)
    return words


def _words(said: Iterable[str], heard: Iterable[str]):
    return sum((count_words(*pair) for pair in zip(said, heard, strict=True)), EditCounts()).word_errors()
