"""What kind of errors there are: the most frequent ones, where insertions pile up, hypotheses that loop, empty ones."""

from collections import Counter
from collections.abc import Sequence

from shibolet.records.documents.scores import FrequentError, FrequentErrors, InsertionTail, Loops
from shibolet.scoring.counts import Operation, align_words
from shibolet.scoring.rows import ScoredRow
from shibolet.speech.text.repetition import repeats_beyond

MOST_FREQUENT = 50
TAIL_FRAC = 0.01  # of the utterances
RUNAWAY_WORDS, RUNAWAY_FRAC = 5, 0.5  # inserted: at least so many, and so many for each word of the reference
MAX_IDS = 20


def frequent_errors(rows: Sequence[ScoredRow], most: int = MOST_FREQUENT) -> FrequentErrors:
    """Substitutions, deletions and insertions with how often each occurs, by the alignment that WER is counted by."""
    seen: dict[Operation, Counter] = {"sub": Counter(), "del": Counter(), "ins": Counter()}
    for row in rows:
        if row.words.errors:
            for operation, said, heard in align_words(row.said, row.heard):
                if operation != "hit":
                    seen[operation][said, heard] += 1

    def ranked(operation: Operation) -> tuple[FrequentError, ...]:
        return tuple(
            FrequentError(said=said, heard=heard, times=times)
            for (said, heard), times in _ranked(seen[operation])[:most]
        )

    return FrequentErrors(substitutions=ranked("sub"), deletions=ranked("del"), insertions=ranked("ins"))


def _ranked(counter: Counter) -> list[tuple[tuple[str | None, str | None], int]]:
    """Most frequent first; ties by the words, so that the same rows in another order give the same list."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))


def insertion_tail(rows: Sequence[ScoredRow]) -> InsertionTail:
    """How much of the insertions is in the worst 1% of the utterances: text that nobody said comes in few of them."""
    by_insertions = sorted(rows, key=lambda row: (-row.words.insertions, row.set, row.id))
    num_worst = max(1, round(TAIL_FRAC * len(rows)))
    total = sum(row.words.insertions for row in rows)
    in_worst = sum(row.words.insertions for row in by_insertions[:num_worst])
    runaway = [row for row in by_insertions if _is_runaway(row)]
    return InsertionTail(
        insertions=total,
        worst_utterances=num_worst,
        share_of_worst=in_worst / total if total else None,
        most_in_one=by_insertions[0].words.insertions if by_insertions else 0,
        runaway_utterances=len(runaway),
        runaway_ids=[row.id for row in runaway[:MAX_IDS]],
    )


def _is_runaway(row: ScoredRow) -> bool:
    return row.words.insertions >= max(RUNAWAY_WORDS, RUNAWAY_FRAC * row.words.reference_length)


def loops(rows: Sequence[ScoredRow]) -> Loops:
    """Hypotheses that say the same stretch four times or more where the reference does not.

    An engine without a reference judges by the room that the audio has (`listen/loops.py`); here the reference knows.
    """
    ids = [row.id for row in rows if is_loop(row)]
    again = sum(row.written_again and not is_loop(row) for row in rows)
    return Loops(
        utterances=len(ids), rate=len(ids) / len(rows) if rows else None, ids=ids[:MAX_IDS], written_again=again
    )


def is_loop(row: ScoredRow) -> bool:
    """Whether the hypothesis says a stretch four times or more in a row where the reference does not."""
    return repeats_beyond(row.heard, row.said)


def has_looped(row: ScoredRow) -> bool:
    """Whether it is a loop, or the model looped before it was written again: a bias hides the fault, and mends none."""
    return row.written_again or is_loop(row)


def is_failure(row: ScoredRow) -> bool:
    """Whether words were said and nothing was recognised."""
    num_words = row.words.reference_length
    return num_words > 0 and row.words.deletions == num_words and not row.heard.strip()
