"""What is measured on a scored set: an entry a metric, from the function that computes it to the columns that show it.

A new metric is an entry here and the field of `records.documents.scores.Measured` that holds what it gives.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from shibolet.records.documents.scores import AsTarget, CharRate, Ends, Scores, WordRate
from shibolet.scoring.biasing import biasing
from shibolet.scoring.counts import EditCounts, count_chars, count_words
from shibolet.scoring.intervals import rate_interval
from shibolet.scoring.number_aware import number_aware_wer, number_writing
from shibolet.scoring.punctuation import punctuation
from shibolet.scoring.rows import ScoredRow, groups_of
from shibolet.scoring.tallies import frequent_errors, insertion_tail, loops
from shibolet.scoring.wording import shown_pct, shown_span
from shibolet.speech.text.language import Language
from shibolet.speech.text.marks import MARKS


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of scores."""

    title: str
    cell: Callable[[Scores], str | None]  # None: not known; a column of nothing else is left out
    in_terminal: bool = False
    is_extra: bool = False  # on a page, left out on a small screen


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Something that scored rows tell of a system."""

    field: str  # of `Measured`
    measure: Callable[..., Any]  # of rows and a language, or of rows and a list of words; None: not known of these
    takes_terms: bool = False
    columns: tuple[Column, ...] = ()
    note: str | None = None  # a sentence under a table that has its columns


def word_rate(rows: Sequence[ScoredRow], language: Language) -> WordRate:
    """WER with its interval."""
    counts, groups = [row.words for row in rows], groups_of(rows)
    errors = sum(counts, EditCounts()).word_errors()
    return WordRate(**dict(errors), interval=_interval(counts, groups), groups=len(set(groups)))


def char_rate(rows: Sequence[ScoredRow], language: Language) -> CharRate:
    """CER with its interval."""
    counts, groups = [row.chars for row in rows], groups_of(rows)
    errors = sum(counts, EditCounts()).char_errors()
    return CharRate(**dict(errors), interval=_interval(counts, groups), groups=len(set(groups)))


def _interval(counts: Sequence[EditCounts], groups: Sequence[str]) -> Ends | None:
    estimate = rate_interval(counts, groups)
    return None if estimate.low is None else (estimate.low, estimate.high)


def as_target(rows: Sequence[ScoredRow], language: Language) -> AsTarget:
    """WER and CER by the rules of training targets."""
    texts = [(language.to_target(row.reference), language.to_target(row.hypothesis)) for row in rows]
    words = sum((count_words(*pair) for pair in texts), EditCounts())
    chars = sum((count_chars(*pair) for pair in texts), EditCounts())
    return AsTarget(normaliser=language.target_version, wer=words.word_errors(), cer=chars.char_errors())


def _loops(one: Scores) -> str:
    again = one.loops.written_again
    return f"{one.loops.utterances:,}" + (f" ({again:,} more written again)" if again else "")


def _f1(one: Scores, mark: str) -> str | None:
    found = one.punctuation and next((own for own in one.punctuation.by_mark if own.mark == mark), None)
    return found and f"{100 * found.f1:.1f}"


def _of_numbers(one: Scores, part: str, whole: str) -> str | None:
    """How many of the numbers in digits; None where no side has any."""
    counts = one.number_writing
    if counts is None or not counts.reference_digits + counts.hypothesis_digits:
        return None
    return f"{getattr(counts, part):,} of {getattr(counts, whole):,}"


METRICS = (
    Metric(
        field="wer",
        measure=word_rate,
        columns=(
            Column("WER", lambda one: shown_pct(one.wer.rate), in_terminal=True),
            Column("95% interval", lambda one: shown_span(one.wer.interval)),
            Column("errors", lambda one: f"{one.wer.errors:,} / {one.wer.words:,}", in_terminal=True, is_extra=True),
            Column("ins", lambda one: f"{one.wer.insertions:,}", is_extra=True),
            Column("del", lambda one: f"{one.wer.deletions:,}", is_extra=True),
            Column("sub", lambda one: f"{one.wer.substitutions:,}", is_extra=True),
        ),
    ),
    Metric(
        field="number_aware",
        measure=number_aware_wer,
        columns=(
            Column(
                "number-aware",
                lambda one: one.number_aware and shown_pct(one.number_aware.wer.rate),
                in_terminal=True,
            ),
        ),
        note='Number-aware WER compares numbers as they are said: "268" and "two six eight" are then the same words. '
        "No verdict depends on it.",
    ),
    Metric(
        field="cer",
        measure=char_rate,
        columns=(Column("CER", lambda one: shown_pct(one.cer.rate), in_terminal=True),),
    ),
    Metric(
        field="loops",
        measure=lambda rows, language: loops(rows),
        columns=(Column("loops", _loops, is_extra=True),),
    ),
    Metric(
        field="as_target",
        measure=as_target,
        columns=(Column("as written", lambda one: shown_pct(one.as_target.wer.rate), is_extra=True),),
    ),
    Metric(
        field="punctuation",
        measure=punctuation,
        columns=(
            Column("PER", lambda one: one.punctuation and shown_pct(one.punctuation.rate), in_terminal=True),
            Column("PER 95%", lambda one: one.punctuation and shown_span(one.punctuation.interval), is_extra=True),
            *(Column(f"F1 {mark}", partial(_f1, mark=mark), is_extra=True) for mark in MARKS),
            Column(
                "with marks",
                lambda one: one.punctuation and shown_pct(one.punctuation.punctuated_wer.rate),
                is_extra=True,
            ),
            Column(
                "verbatim", lambda one: one.punctuation and shown_pct(one.punctuation.verbatim_wer.rate), is_extra=True
            ),
        ),
        note="PER is the punctuation error rate: wrong, missing and added marks over these and the right ones, between "
        "words that stand opposite each other. No verdict depends on it.",
    ),
    Metric(
        field="number_writing",
        measure=number_writing,
        columns=(
            Column(
                "digits heard in words",
                lambda one: _of_numbers(one, "heard_in_words", "reference_digits"),
                is_extra=True,
            ),
            Column(
                "words heard in digits",
                lambda one: _of_numbers(one, "said_in_words", "hypothesis_digits"),
                is_extra=True,
            ),
        ),
    ),
    Metric(
        field="biasing",
        measure=biasing,
        takes_terms=True,
        columns=(
            Column("U-WER", lambda one: one.biasing and shown_pct(one.biasing.others.rate), in_terminal=True),
            Column("B-WER", lambda one: one.biasing and shown_pct(one.biasing.listed.rate), in_terminal=True),
            Column("B-WER 95%", lambda one: one.biasing and shown_span(one.biasing.listed.interval), is_extra=True),
            Column(
                "listed words",
                lambda one: one.biasing and f"{one.biasing.listed.errors:,} / {one.biasing.listed.words:,}",
                is_extra=True,
            ),
            Column("false", lambda one: one.biasing and f"{one.biasing.false_words:,}", in_terminal=True),
        ),
        note="B-WER is the WER of words of the list in evaluate.context, U-WER that of all others (Le et al. 2021). "
        "False: words of the list that were written where the reference has another word, or none.",
    ),
    Metric(field="insertion_tail", measure=lambda rows, language: insertion_tail(rows)),
    Metric(field="frequent_errors", measure=lambda rows, language: frequent_errors(rows)),
)
OF_HEARING = (  # what is no metric and stands beside them
    Column("empty", lambda one: f"{one.num_empty_hypotheses:,} of {one.num_utterances:,}", is_extra=True),
    Column("failed", lambda one: f"{len(one.failures):,}", is_extra=True),
)


def measure(rows: Sequence[ScoredRow], language: Language, terms: Collection[str] = ()) -> dict[str, Any]:
    """What every metric gives, by its field of `Measured`; `terms` are words that are counted apart, as scores are."""
    return {metric.field: metric.measure(rows, terms if metric.takes_terms else language) for metric in METRICS}


def shown(scores: Iterable[Scores]) -> tuple[list[Column], list[str]]:
    """The columns of a table of these scores, and the sentences under it."""
    scores, columns, notes = list(scores), [], []
    for metric in METRICS:
        known = [column for column in metric.columns if any(column.cell(one) is not None for one in scores)]
        columns += known
        if known and metric.note:
            notes.append(metric.note)
    return [*columns, *OF_HEARING], notes
