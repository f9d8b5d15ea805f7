"""What an audit comes to: `alignment_report.json`, from its table and its self-test."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shibolet.audit.probability import reported
from shibolet.audit.review import human_flags
from shibolet.records.audited import Audited, read_audited
from shibolet.records.documents.alignment import (
    AlignmentReport,
    CalibrationSummary,
    DomainStatistics,
    SelfTest,
    StratumSize,
)
from shibolet.records.documents.calibration import Calibration, ErrorRates
from shibolet.records.documents.gate import JudgedBy


@dataclass(slots=True)
class _Heard:
    """Rows that were counted, and their numbers as far as they are known."""

    count: int = 0
    num_low: int = 0
    coverage: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    length_mismatch: list[bool] = field(default_factory=list)

    def add(self, row: Audited) -> None:
        self.count += 1
        self.num_low += row.is_low_quality
        for name in ("coverage", "confidence", "length_mismatch"):
            if (value := getattr(row, name)) is not None:
                getattr(self, name).append(value)

    def statistics(self) -> DomainStatistics:
        mismatch = _rounded(np.mean, self.length_mismatch)
        return DomainStatistics(
            count=self.count,
            low_quality_count=self.num_low,
            low_quality_percentage=round(100 * self.num_low / self.count, 2),
            mean_coverage=_rounded(np.mean, self.coverage),
            median_coverage=_rounded(np.median, self.coverage),
            mean_confidence=_rounded(np.mean, self.confidence),
            length_mismatch_percentage=None if mismatch is None else round(100 * mismatch, 2),
        )


def summarise(
    table: Path,
    *,
    strata: dict[str, StratumSize],
    self_test: SelfTest | None,
    calibration: Calibration,
    notes: Sequence[str],
    population: int,
    judged_by: JudgedBy = "text and audio",
    detector: ErrorRates | None = None,
) -> AlignmentReport:
    """The report on the rows of a table, less the gate's decision; `population` counts what was not heard too."""
    everything, domains = _Heard(), defaultdict(_Heard)
    failures, suspects, noted = Counter(), Counter(), []
    for row in read_audited(table, short=True):
        everything.add(row)
        domains[row.domain].add(row)
        failures[row.failure] += 1
        suspects[row.suspect] += row.is_low_quality
        if row.flags is not None:
            noted.append(row)
    known = everything.coverage  # none at all without an aligner
    distribution = {f"p{p}": np.percentile(known, p) for p in (10, 25, 50, 75, 90)} if known else {}
    distribution |= {"mean": np.mean(known)} if known else {}
    return AlignmentReport(
        low_quality_percentage=round(100 * everything.num_low / everything.count, 2) if everything.count else 0.0,
        low_quality_count=everything.num_low,
        total_samples=everything.count,
        population=population,
        num_scored=len(everything.confidence),
        coverage_distribution={name: round(float(value), 4) for name, value in distribution.items()},
        domain_statistics={name: domains[name].statistics() for name in sorted(domains)},
        failures=_named(failures),
        suspects=_named(suspects),
        human_flags=human_flags(noted),
        strata=strata,
        self_test=self_test,
        calibration=CalibrationSummary(
            kind=calibration.kind,
            num_clean=calibration.num_clean,
            num_left_out=calibration.num_left_out,
            models=calibration.identities,
        ),
        probability=calibration.recalibration and reported(calibration.recalibration),
        judged_by=judged_by,
        detector=detector,
        notes=tuple(notes),
    )


def _named(counts: Counter) -> dict[str, int]:
    """What was counted at all under a name, by name."""
    return {name: counts[name] for name in sorted(counts.keys() - {None}) if counts[name]}


def _rounded(take: Callable, values: Sequence[float]) -> float | None:
    return round(float(take(values)), 4) if values else None
