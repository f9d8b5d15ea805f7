"""Word alignments and listings as NIST's sclite makes them: substitution 4, deletion 3, insertion 3.

These weights prefer two gaps and a hit to two substitutions, so the split into S, D and I, and now and then the number
of errors, differ from the shortest edit that WER is counted by (`counts`). Ties are broken as in sclite's net_dp.c.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shibolet.scoring.counts import EditCounts, Operation

SUBSTITUTION, GAP = 4, 3
LINE_CHARS = 110
DIAGONAL, DELETION, INSERTION = 0, 1, 2
_LETTERS: dict[Operation, str] = {"hit": "", "sub": "S", "del": "D", "ins": "I"}

Aligned = list[tuple[Operation, str | None, str | None]]  # operation, reference word, hypothesis word


@dataclass(frozen=True, slots=True)
class Entry:
    """One utterance of a listing."""

    id: str
    aligned: Aligned

    @property
    def counts(self) -> EditCounts:
        operations = [operation for operation, _, _ in self.aligned]
        return EditCounts(*(operations.count(name) for name in ("hit", "sub", "del", "ins")))


def align_weighted(reference: Sequence[str], hypothesis: Sequence[str]) -> Aligned:
    """The alignment of least weight; one byte a cell is held, N reference words by M hypothesis words."""
    came_from = _came_from(reference, hypothesis)  # [N + 1, M + 1]
    i, j, aligned = len(reference), len(hypothesis), []
    while i or j:
        if came_from[i, j] == DIAGONAL:
            i, j = i - 1, j - 1
            aligned.append(("hit" if reference[i] == hypothesis[j] else "sub", reference[i], hypothesis[j]))
        elif came_from[i, j] == DELETION:
            i -= 1
            aligned.append(("del", reference[i], None))
        else:
            j -= 1
            aligned.append(("ins", None, hypothesis[j]))
    return aligned[::-1]


def _came_from(reference: Sequence[str], hypothesis: Sequence[str]) -> np.ndarray:
    number_of = {word: number for number, word in enumerate(dict.fromkeys((*reference, *hypothesis)))}
    ref = np.array([number_of[word] for word in reference], dtype=np.int64)
    hyp = np.array([number_of[word] for word in hypothesis], dtype=np.int64)
    return steps(((SUBSTITUTION * (hyp != word), GAP) for word in ref), len(ref), np.full(len(hyp), GAP))


def steps(rows: Iterable[tuple[np.ndarray, int]], num_rows: int, insertions: np.ndarray) -> np.ndarray:
    """[N + 1, M + 1] the step that leads to each cell: diagonal if none is cheaper, insertion before deletion.

    Of each of the N rows: [M] weights of standing opposite each column, and the weight of standing opposite none;
    `insertions` [M] is that weight of each column.
    """
    came_from = np.full((num_rows + 1, len(insertions) + 1), INSERTION, dtype=np.uint8)
    gaps = np.concatenate(([0], np.cumsum(insertions)))
    above = gaps.copy()  # cost of each cell of the row before
    for i, (opposite, skip) in enumerate(rows, 1):
        diagonal = np.concatenate(([np.iinfo(np.int64).max], above[:-1] + opposite))
        deletion = above + skip
        # Insertions run along the row: cost[j] = min over k <= j of entered[k] + gaps[j] - gaps[k].
        cost = np.minimum.accumulate(np.minimum(diagonal, deletion) - gaps) + gaps
        insertion = np.concatenate(([np.iinfo(np.int64).max], cost[:-1] + insertions))
        came_from[i, deletion < insertion] = DELETION
        came_from[i, (diagonal <= deletion) & (diagonal <= insertion)] = DIAGONAL
        above = cost
    return came_from


def listing(entries: Iterable[Entry], header: str = "") -> str:
    """The text of a listing in sclite's manner: scores, REF, HYP and Eval of each utterance, sums at the end."""
    parts, total = [header] if header else [], EditCounts()
    for entry in entries:
        total += (counts := entry.counts)
        parts.append("\n".join([f"id: ({entry.id})", _scores(counts), *_lines(entry.aligned), ""]))
    return "\n".join([*parts, f"Sum {_scores(total)}", ""])


def _scores(counts: EditCounts) -> str:
    return f"Scores: (#C #S #D #I) {counts.hits} {counts.substitutions} {counts.deletions} {counts.insertions}"


def _lines(aligned: Aligned) -> list[str]:
    """REF, HYP and Eval in columns; a gap is stars, and what is too long goes on in lines that begin with >>."""
    columns = []
    for operation, said, heard in aligned:
        width = max(len(said or ""), len(heard or ""), 1)
        cells = (said or "*" * width, heard or "*" * width, _LETTERS[operation])
        columns.append([cell.ljust(width) for cell in cells])
    lines, start = [], 0
    while start < len(columns) or not lines:
        end, used = start, 0
        while end < len(columns) and (end == start or used + len(columns[end][0]) < LINE_CHARS):
            used += len(columns[end][0]) + 1
            end += 1
        for k, name in enumerate(("REF: ", "HYP: ", "Eval:")):
            cells = " ".join(column[k] for column in columns[start:end])
            lines.append(f"{'>> ' if start else ''}{name} {cells}".rstrip())
        start = max(end, start + 1)
    return lines
