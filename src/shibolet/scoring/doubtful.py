"""What a system scores with and without the references that an audit of the set doubts.

The score stays that of all utterances. Which ones are in doubt is the audit's table to say.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from shibolet.records.audited import Audited
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.doubtful import DoubtfulReference, DoubtfulScores
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import error_line, pool

ADVICE = (
    "The line of the audit lets about 1 in 20 right references fail too, so listen before you judge; correct a wrong "
    "reference in the set itself and evaluate again."
)


def is_doubtful(row: Audited) -> bool:
    """Whether the instrument could hear it and does not believe its reference."""
    return row.is_low_quality and row.failure is None


def without_doubtful(
    rows: Sequence[ScoredRow], audited: Mapping[str, Audited], named: Named, set_name: str, judge: str | None = None
) -> DoubtfulScores:
    """The scores of a system's `rows` on a set, by the audit's rows of it by id.

    `judge` is the sentence to say where the system is the audit's recogniser itself.
    """
    own = {row.id: row for row in rows}
    listed = sorted((one for one in audited.values() if is_doubtful(one)), key=lambda one: (one.confidence, one.id))
    references = [
        DoubtfulReference(
            id=one.id, duration_s=one.duration_s, suspect=one.suspect, confidence=one.confidence, reasons=one.reasons,
            reference=one.text, heard=one.hypothesis, errors=own[one.id].words.word_errors(),
        )
        for one in listed
    ]  # fmt: skip
    doubted = {one.id for one in listed}
    unjudged = Counter("unread" if row.id not in audited else audited[row.id].failure for row in rows)
    del unjudged[None]
    everything, rest = pool(rows).words, pool(row for row in rows if row.id not in doubted).words
    judged = len(rows) - unjudged.total()
    head = f"References in doubt on set '{set_name}': {len(listed):,} of {judged:,} that could be judged"
    sentences = [f"{head}."]
    if listed:
        with_them, without = error_line(everything), error_line(rest)
        sentences = [f"{head}. {named.title}: with them {with_them}, without them {without}."]
        sentences += [judge] if judge else []
    return DoubtfulScores(
        label=named.label,
        title=named.title,
        set=set_name,
        utterances=len(rows),
        judged=judged,
        unjudged=dict(sorted(unjudged.items())),
        references=references,
        wer=everything.word_errors(),
        wer_without=rest.word_errors(),
        sentences=sentences,
    )
