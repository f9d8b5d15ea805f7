"""WER and CER pooled over the utterances of a set, a domain, a duration bucket, a speaker, a length, a noise level."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TypeVar

from shibolet.records.documents.scores import Slice
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow

Item = TypeVar("Item")
Buckets = Sequence[tuple[str, float, float]]
LENGTHS_WORDS = (1, 5, 10, 20, 50)  # of the reference
SNRS_DB = (5, 10, 20, 30)  # as speech/activity.py estimates them
UNKNOWN = "unknown"
# The specification's three; training saw at most 15 s, and what it hears in pieces is a slice of its own.
BUCKETS_S: Buckets = (("short", 0.5, 5.0), ("medium", 5.0, 15.0), ("long", 15.0, 30.0), ("long-form", 30.0, 7200.0))


@dataclass(frozen=True, slots=True)
class Pooled:
    """Counts added over utterances; a rate of them is corpus-level, never a mean of rates."""

    num_utterances: int
    duration_s: float
    words: EditCounts
    chars: EditCounts

    def scores(self) -> Slice:
        """As documents have it."""
        return Slice(
            utterances=self.num_utterances,
            duration_s=round(self.duration_s, 3),
            wer=self.words.word_errors(),
            cer=self.chars.char_errors(),
        )


def pool(rows: Iterable[ScoredRow]) -> Pooled:
    """Every row counted, empty hypotheses and empty references too."""
    rows = list(rows)
    return Pooled(
        num_utterances=len(rows),
        duration_s=sum(row.duration_s for row in rows),
        words=sum((row.words for row in rows), EditCounts()),
        chars=sum((row.chars for row in rows), EditCounts()),
    )


def duration_bucket(duration_s: float, buckets: Buckets = BUCKETS_S) -> str:
    """Name of the half-open bucket [low, high) of adjoining buckets, else "shorter" or "longer"."""
    for name, low_s, high_s in buckets:
        if low_s <= duration_s < high_s:
            return name
    return "shorter" if duration_s < buckets[0][1] else "longer"


def group(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Items by key, keys in order of first appearance."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def slice_keys(buckets: Buckets = BUCKETS_S) -> dict[str, Callable[[ScoredRow], str]]:
    """The ways in which scores are broken down: name of the breakdown -> name of a row's slice in it."""
    return {
        "sets": lambda row: row.set,
        "domains": lambda row: row.domain or UNKNOWN,
        "buckets": lambda row: duration_bucket(row.duration_s, buckets),
        "speakers": lambda row: row.speaker or UNKNOWN,
        "lengths": lambda row: _bin(row.words.reference_length, LENGTHS_WORDS, "words"),
        "noise": lambda row: UNKNOWN if row.snr_db is None else _bin(row.snr_db, SNRS_DB, "dB"),
    }


def slices(
    items: Sequence[Item], row_of: Callable[[Item], ScoredRow], buckets: Buckets = BUCKETS_S
) -> dict[str, dict[str, list[Item]]]:
    """Items by breakdown and slice; a breakdown of which nothing is known is left out.

    Sets, domains and speakers come in order of first appearance, the others from low to high.
    """
    ordered = {
        "buckets": ["shorter", *(name for name, _, _ in buckets), "longer"],
        "lengths": _bin_names(LENGTHS_WORDS, "words"),
        "noise": [*_bin_names(SNRS_DB, "dB"), UNKNOWN],
    }
    found = {}
    for breakdown, key in slice_keys(buckets).items():
        groups = group(items, lambda item, key=key: key(row_of(item)))
        if breakdown in ("domains", "speakers", "noise") and list(groups) == [UNKNOWN]:
            continue
        names = ordered.get(breakdown, groups)
        found[breakdown] = {name: groups[name] for name in names if name in groups}
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Sliced:
    """Pooled scores by slice; a breakdown of which nothing is known is empty."""

    sets: Mapping[str, Slice]
    buckets: Mapping[str, Slice]
    lengths: Mapping[str, Slice]
    domains: Mapping[str, Slice] = field(default_factory=dict)
    speakers: Mapping[str, Slice] = field(default_factory=dict)
    noise: Mapping[str, Slice] = field(default_factory=dict)


def pool_by_slice(rows: Sequence[ScoredRow], buckets: Buckets = BUCKETS_S) -> Sliced:
    """Pooled scores by breakdown and slice."""
    found = slices(rows, lambda row: row, buckets)
    return Sliced(
        **{
            breakdown: {name: pool(members).scores() for name, members in groups.items()}
            for breakdown, groups in found.items()
        }
    )


def _bin(value: float, edges: Sequence[int], unit: str) -> str:
    return _bin_names(edges, unit)[sum(value >= edge for edge in edges)]


@cache
def _bin_names(edges: tuple[int, ...], unit: str) -> list[str]:
    """Half-open bins: with edges (5, 10) "under 5", "5 to 10", "10 and more"."""
    between = [f"{low} to {high} {unit}" for low, high in pairwise(edges)]
    return [f"under {edges[0]} {unit}", *between, f"{edges[-1]} {unit} and more"]


def error_line(counts: EditCounts, measure: str = "WER") -> str:
    """The line that speech people expect, after icefall: `%WER 11.20 [292 / 2606, 23 ins, 57 del, 212 sub]`."""
    rate = "n/a" if counts.rate is None else f"{100 * counts.rate:.2f}"
    return (
        f"%{measure} {rate} [{counts.errors} / {counts.reference_length}, "
        f"{counts.insertions} ins, {counts.deletions} del, {counts.substitutions} sub]"
    )
