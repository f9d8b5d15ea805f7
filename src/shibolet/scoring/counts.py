"""Hits, substitutions, deletions and insertions of one hypothesis, added up before any rate is taken."""

from dataclasses import dataclass
from typing import Any, Literal

from shibolet.records.documents.scores import CharErrors, WordErrors

Operation = Literal["hit", "sub", "del", "ins"]
_OPERATIONS: dict[str, Operation] = {"equal": "hit", "substitute": "sub", "delete": "del", "insert": "ins"}


@dataclass(frozen=True, slots=True)
class EditCounts:
    """Counts of the shortest edit from reference to hypothesis, in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors over reference length; None where the reference is empty.

        Insertions against an empty reference have no rate of their own and count in every sum that they are added to.
        """
        return self.errors / self.reference_length if self.reference_length else None

    def word_errors(self) -> WordErrors:
        """As documents have it, of words."""
        return WordErrors(words=self.reference_length, **self._by_kind())

    def char_errors(self) -> CharErrors:
        """As documents have it, of characters."""
        return CharErrors(chars=self.reference_length, **self._by_kind())

    def _by_kind(self) -> dict[str, Any]:
        return {
            "errors": self.errors,
            "rate": self.rate,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
        }


def count_words(reference: str, hypothesis: str) -> EditCounts:
    """Word edits by jiwer; either side may be empty."""
    import jiwer  # 0.1 s, kept out of `shibolet --help`

    return _counts(jiwer.process_words(reference, hypothesis))


def count_chars(reference: str, hypothesis: str) -> EditCounts:
    """Character edits by jiwer, spaces between words included; either side may be empty."""
    import jiwer

    return _counts(jiwer.process_characters(reference, hypothesis))


def align_words(reference: str, hypothesis: str) -> list[tuple[Operation, str | None, str | None]]:
    """One (operation, reference word, hypothesis word) after the other; None on the side that has no word."""
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    ref_words, hyp_words = output.references[0], output.hypotheses[0]
    aligned = []
    for chunk in output.alignments[0]:
        ref_span = ref_words[chunk.ref_start_idx : chunk.ref_end_idx]
        hyp_span = hyp_words[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(ref_span), len(hyp_span))):
            ref_word = ref_span[i] if ref_span else None
            hyp_word = hyp_span[i] if hyp_span else None
            aligned.append((_OPERATIONS[chunk.type], ref_word, hyp_word))
    return aligned


def _counts(output) -> EditCounts:
    return EditCounts(output.hits, output.substitutions, output.deletions, output.insertions)
