"""Word error rates of the same utterances once numbers are compared as they are said: "268" is "two six eight".

They stand beside the leaderboard's rates, which count "268" as another word, and replace none of them.
"""

from collections.abc import Sequence

from shibolet.records.documents.scores import NumberAware, NumberWriting, WordErrors
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import UNKNOWN, group
from shibolet.speech.text.language import Language
from shibolet.speech.text.reading import number_aware, numbers_apart


def number_aware_wer(rows: Sequence[ScoredRow], language: Language) -> NumberAware | None:
    """WER of all rows and, where one is known, by domain; None of a language that knows no readings of numbers.

    A reference counts with the words of its reading, so lengths may differ from those of the rows' own counts.
    """
    if language.reader is None:
        return None
    counted = [(row.domain or UNKNOWN, _counts(row, language)) for row in rows]
    domains = group(counted, lambda one: one[0]) if any(row.domain for row in rows) else {}
    return NumberAware(wer=_pooled(counted), by_domain={name: _pooled(members) for name, members in domains.items()})


def number_writing(rows: Sequence[ScoredRow], language: Language) -> NumberWriting | None:
    """Digits against words; None of a language that knows no readings of numbers."""
    if language.reader is None:
        return None
    said, heard = [], []
    for row in rows:
        if any(map(str.isdigit, row.reference + row.hypothesis)):
            own, other = numbers_apart(row.reference, row.hypothesis, language)
            said += own
            heard += other
    return NumberWriting(
        reference_digits=len(said), heard_in_words=sum(said), hypothesis_digits=len(heard), said_in_words=sum(heard)
    )


def _counts(row: ScoredRow, language: Language) -> EditCounts:
    said, heard = number_aware(row.reference, row.hypothesis, language)
    return row.words if (said, heard) == (row.said, row.heard) else count_words(said, heard)


def _pooled(counted: Sequence[tuple[str, EditCounts]]) -> WordErrors:
    return sum((counts for _, counts in counted), EditCounts()).word_errors()
