"""Which part of a round gave what: systems in an order in which each has one part more than the one before."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from shibolet.compare.config import CompareConfig
from shibolet.compare.pairs import Overlaps, system_pairs, system_rates
from shibolet.errors import DataError
from shibolet.records.documents.comparison import NOT_SHOWN, Named, SystemPair, Waterfall
from shibolet.scoring.rows import ScoredRow
from shibolet.scoring.slices import BUCKETS_S, Buckets


def waterfall(
    rows_by_system: Mapping[Named, Sequence[ScoredRow]],
    config: CompareConfig,
    buckets: Buckets = BUCKETS_S,
    overlaps_by_label: Mapping[str, Overlaps] = MappingProxyType({}),
) -> Waterfall:
    """Each of two or more systems against the one before it, and the last against the first, on the same rows.

    The differences of the steps add up to that of the whole, their intervals do not. Holm's p is adjusted for the
    number of steps. DataError where rows do not pair.
    """
    names = list(rows_by_system)
    if len(names) < 2:
        raise DataError(f"a chain of parts needs two systems, not {len(names)}")
    steps = system_pairs(pairwise(names), rows_by_system, config, buckets, overlaps_by_label)
    (whole,) = system_pairs([(names[0], names[-1])], rows_by_system, config, buckets, overlaps_by_label)
    return Waterfall(
        systems=system_rates(rows_by_system),
        overlaps={label: dict(overlaps) for label, overlaps in overlaps_by_label.items()},
        steps=steps,
        whole=whole,
        sentences=tuple(_sentences(steps, whole)),
    )


def _sentences(steps: Sequence[SystemPair], whole: SystemPair) -> list[str]:
    said = [f"The whole chain: {whole.sentence}"]
    unclear = [step.candidate.title for step in steps if step.overall.wer.shown == NOT_SHOWN]
    if unclear:
        said.append(f"No difference is shown for the step to {', '.join(unclear)}.")
    if len(steps) > 1:
        said.append(
            "A step is what a part gives after the parts before it: in another order it may give more or less. The "
            f"steps add up to the whole; each interval is of its step alone, and p is adjusted for {len(steps)} steps."
        )
    return said
