"""Counts and hours of what was kept, dropped and changed."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shibolet.prepare.pieces import Outcome
from shibolet.records.documents.prepared import Amount, Counts, Cut, Hours, Prepared, Split
from shibolet.records.ledger import LedgerLine
from shibolet.records.spilled import SpilledList

TOLERANCE_S = 0.002  # a line or a piece: times in the ledger are rounded to milliseconds


@dataclass(slots=True)
class Sum:
    """A number of things and their seconds in all."""

    num: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.num += 1
        self.seconds += seconds

    def amount(self) -> Amount:
        return Amount(utterances=self.num, hours=_hours(self.seconds))


@dataclass(slots=True)
class Tally:
    """The books of a run: every utterance is added once, as what became of it."""

    lines: SpilledList[LedgerLine] = field(default_factory=SpilledList)
    came: Sum = field(default_factory=Sum)
    kept: Sum = field(default_factory=Sum)  # utterances, of which at least a piece stays; seconds of the pieces
    dropped: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))  # by rule
    changed: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))  # by rule; seconds left out
    rows: dict[str, dict[str, Sum]] = field(default_factory=dict)  # by split and domain
    num_cut: int = 0  # utterances of which more than one piece came
    num_pieces: int = 0  # of these, kept

    def add(self, outcome: Outcome, split: str = "") -> None:
        self.lines.extend(outcome.lines)
        self.came.add(outcome.duration_s)
        for line in outcome.lines:
            (self.changed if outcome.pieces else self.dropped)[line.rule].add(line.duration_s)
        if not outcome.pieces:
            return
        self.kept.add(sum(piece.utterance.duration_s for piece in outcome.pieces))
        if outcome.is_cut:
            self.num_cut, self.num_pieces = self.num_cut + 1, self.num_pieces + len(outcome.pieces)
        domains = self.rows.setdefault(split, defaultdict(Sum))
        for piece in outcome.pieces:
            domains[piece.utterance.domain or "unknown"].add(piece.utterance.duration_s)

    def prepared(self, num_given: int, num_groups: Mapping[str, int], **made_by: Any) -> Prepared:
        """The summary; `made_by` are its fields of which nothing is counted here.

        `num_groups` are those of each split. AssertionError when the books do not balance.
        """
        num_dropped = sum(part.num for part in self.dropped.values())
        dropped_s = sum(part.seconds for part in self.dropped.values())
        changed_s = sum(part.seconds for part in self.changed.values())
        if not num_given == self.came.num == self.kept.num + num_dropped:
            raise AssertionError(f"{num_given} utterances came, {self.kept.num} were kept and {num_dropped} dropped")
        missing_s = self.came.seconds - self.kept.seconds - dropped_s - changed_s
        if abs(missing_s) > TOLERANCE_S * (len(self.lines) + self.num_pieces + self.kept.num):
            raise AssertionError(f"{missing_s:.3f} of {self.came.seconds:.3f} s are in no shard and on no ledger line")
        return Prepared(
            utterances=Counts(given=self.came.num, kept=self.kept.num, dropped=num_dropped),
            hours=Hours(
                given=_hours(self.came.seconds),
                kept=_hours(self.kept.seconds),
                dropped=_hours(dropped_s),
                left_out_of_kept=_hours(changed_s),
            ),
            cut=Cut(utterances=self.num_cut, pieces=self.num_pieces),
            train=self._split("train", num_groups),
            dev=self._split("dev", num_groups),
            dropped_by_rule=_by_rule(self.dropped),
            changed_by_rule=_by_rule(self.changed),
            **made_by,
        )

    def _split(self, name: str, num_groups: Mapping[str, int]) -> Split:
        domains = self.rows.get(name, {})
        return Split(
            utterances=sum(part.num for part in domains.values()),
            hours=_hours(sum(part.seconds for part in domains.values())),
            domains={domain: domains[domain].amount() for domain in sorted(domains)},
            groups=num_groups[name],
        )


def _by_rule(sums: Mapping[str, Sum]) -> dict[str, Amount]:
    order = sorted(sums, key=lambda rule: (-sums[rule].num, rule))
    return {rule: sums[rule].amount() for rule in order}


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 5)
