"""Losses that are rare and large: hypotheses that loop, and utterances in which nothing is recognised.

A set may hold none of them by chance: of sets of 200 utterances, of which a system loops in 1%, 13% show no loop. An
interval knows only what was seen. So this counts what a set is compatible with, and says what it would cost.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shibolet.records.documents.comparison import LossTally
from shibolet.scoring.rates import clopper_pearson
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.tallies import is_loop

MAX_CHANCE = 0.05  # of more losses in the second system: under it they are more than chance explains
PIECE_S = 30.0  # `evaluate.max_piece_s`: a recording that is longer has as many chances to loop as it has pieces
LEVEL = 0.95  # two-sided: the upper limit is passed in 2.5% of sets


@dataclass(frozen=True, slots=True)
class PairedLosses:
    """In how many of the same utterances two systems have one kind of loss."""

    num_utterances: int
    num_pieces: int  # of 30 s at most, in which recordings are transcribed: a loop ends with its piece
    first: int
    second: int
    first_alone: int  # where the second system has none
    second_alone: int

    def tally(self) -> LossTally:
        """As documents have it: the first system is the baseline, the second the candidate."""
        return LossTally(
            baseline=self.first, candidate=self.second, baseline_alone=self.first_alone,
            candidate_alone=self.second_alone, p_more=self.p_more,
        )  # fmt: skip

    @property
    def p_more(self) -> float:
        """Probability of so many more in the second system by chance: exact, one-sided (McNemar's binomial)."""
        from scipy.special import betainc

        return float(betainc(self.second_alone, self.first_alone + 1, 0.5)) if self.second_alone else 1.0

    @property
    def unseen_frac(self) -> float:
        """Share of pieces in which the second system alone may have one beyond what was seen."""
        return self.upper_frac - self.second_alone / self.num_pieces

    @property
    def upper_frac(self) -> float:
        """Upper 97.5% limit of the share of pieces in which the second system alone has one."""
        return clopper_pearson(self.second_alone / self.num_pieces, self.num_pieces, LEVEL)[1]


def losses(
    first: Sequence[ScoredRow], second: Sequence[ScoredRow], is_lost: Callable[[ScoredRow], bool]
) -> PairedLosses:
    """Counts over the utterances of two systems, which come in the same order."""
    found = [(is_lost(one), is_lost(two)) for one, two in zip(first, second, strict=True)]
    return PairedLosses(
        num_utterances=len(found),
        num_pieces=num_pieces(first),
        first=sum(one for one, _ in found),
        second=sum(two for _, two in found),
        first_alone=sum(one and not two for one, two in found),
        second_alone=sum(two and not one for one, two in found),
    )


def num_pieces(rows: Sequence[ScoredRow]) -> int:
    return sum(max(1, math.ceil(row.duration_s / PIECE_S)) for row in rows)


def cost_of_loop(rows: Sequence[ScoredRow], assumed: float) -> float:
    """What a loop costs, in mean words of a piece: as the loops of these rows do, and at least `assumed`."""
    lost = [row.words.errors for row in rows if is_loop(row)]
    words = sum(row.words.reference_length for row in rows)
    seen = num_pieces(rows) * sum(lost) / (len(lost) * words) if lost and words else 0.0
    return max(seen, assumed)


def pieces_for(cost: float, rate: float) -> int:
    """Pieces without a loop from which on loops cannot cost `rate`, over 0, or more."""
    return 1 if rate >= cost else math.ceil(math.log((1 - LEVEL) / 2) / math.log1p(-rate / cost))


def told(
    loops: PairedLosses,
    failures: PairedLosses,
    cost: float,
    titles: tuple[str, str],
    written_again: Sequence[int] = (0, 0),
) -> list[str]:
    """Sentences on what was seen of both kinds and what loops may cost that were not seen.

    Of the loops of each side so many are `written_again`: they cost it less, and count as loops all the same.
    """
    num, seen, is_cut = loops.num_utterances, loops.second_alone, loops.num_pieces > loops.num_utterances
    pieces = f" ({loops.num_pieces:,} pieces of {PIECE_S:g} s or less)" if is_cut else ""
    if loops.first or loops.second:
        limit = (
            f"{titles[1]} loops in {loops.second:,} of {num:,} utterances{pieces}, {titles[0]} in {loops.first:,}; "
            f"{titles[1]} alone in {seen:,}, which is"
        )
    else:
        limit = f"0 loops in {num:,} utterances{pieces} are"
    limit += f" compatible with {100 * loops.upper_frac:.1f}% (upper 97.5% limit)"
    if cost:
        what = "those not seen come to" if seen else "that is"
        whose, points = "a piece" if is_cut else "an utterance", 100 * cost * loops.unseen_frac
        limit += f"; at {cost:.1f} times {whose}'s words each {what} {points:.1f} points"
    else:
        limit += "; no allowance is made for them (compare.loop_cost: 0)"
    sentences = [f"{limit}."]
    if any(written_again):
        sentences.append(
            "Texts that were written again after a loop (evaluate.loop_bias) count as loops: "
            f"{written_again[0]:,} of {titles[0]}, {written_again[1]:,} of {titles[1]}."
        )
    if failures.first or failures.second:
        sentences.append(
            f"{titles[1]} recognises nothing in {failures.second:,} utterances that have words, {titles[0]} in "
            f"{failures.first:,}."
        )
    return sentences
