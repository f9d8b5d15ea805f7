"""What an audit comes to: the content of `alignment_report.json`, from its table and its self-test."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from shibolet.audit.calibration import Calibration
from shibolet.audit.review import human_flags
from shibolet.audit.table import read_columns

_TEXTS = ("domain", "failure", "suspect")
_NUMBERS = ("is_low_quality", "length_mismatch", "coverage", "confidence")
Columns = dict[str, np.ndarray]


def summarise(
    table: Path,
    *,
    strata: dict,
    self_test: dict | None,
    calibration: Calibration,
    notes: Sequence[str],
    population: int,
) -> dict:
    """The report on the rows of a table, less the gate's decision; `population` counts what was not heard too."""
    columns = read_columns(table, (*_TEXTS, *_NUMBERS))
    total, low, scored = len(columns["domain"]), columns["is_low_quality"] == 1, ~np.isnan(columns["confidence"])
    coverage = columns["coverage"][~np.isnan(columns["coverage"])]  # none at all without an aligner
    distribution = {f"p{p}": np.percentile(coverage, p) for p in (10, 25, 50, 75, 90)} if len(coverage) else {}
    distribution |= {"mean": coverage.mean()} if len(coverage) else {}
    return {
        "low_quality_percentage": round(100 * int(low.sum()) / total, 2) if total else 0.0,
        "low_quality_count": int(low.sum()),
        "total_samples": total,
        "population": population,
        "num_scored": int(scored.sum()),
        "coverage_distribution": {name: round(float(value), 4) for name, value in distribution.items()},
        "domain_statistics": {
            name: _domain({key: column[columns["domain"] == name] for key, column in columns.items()})
            for name in sorted(set(columns["domain"]))
        },
        "failures": _counts(columns["failure"]),
        "suspects": _counts(columns["suspect"][low]),
        "human_flags": human_flags(_flagged(table)),
        "strata": strata,
        "self_test": self_test,
        "calibration": {"kind": calibration.kind, "num_clean": calibration.num_clean,
                        "num_left_out": calibration.num_left_out, "models": list(calibration.identities)},
        "probability": calibration.recalibration and calibration.recalibration.to_report(),
        "notes": list(notes),
    }  # fmt: skip


def _counts(names: np.ndarray) -> dict[str, int]:
    counts = Counter(names)
    return {name: counts[name] for name in sorted(counts.keys() - {None})}


def _flagged(table: Path) -> list[dict]:
    """Rows of utterances that people looked at, as far as `human_flags` reads them."""
    if pq.read_table(table, columns=["flags"])["flags"].null_count == pq.read_metadata(table).num_rows:
        return []
    return pq.read_table(table, columns=["flags", "is_low_quality", "suspect", "failure"]).to_pylist()


def _domain(columns: Columns) -> dict:
    total, low = len(columns["domain"]), int((columns["is_low_quality"] == 1).sum())
    known = {name: columns[name][~np.isnan(columns[name])] for name in ("coverage", "confidence", "length_mismatch")}
    of = lambda take, name: round(float(take(known[name])), 4) if len(known[name]) else None  # noqa: E731
    return {
        "count": total,
        "low_quality_count": low,
        "low_quality_percentage": round(100 * low / total, 2),
        "mean_coverage": of(np.mean, "coverage"),
        "median_coverage": of(np.median, "coverage"),
        "mean_confidence": of(np.mean, "confidence"),
        "length_mismatch_percentage": None
        if (share := of(np.mean, "length_mismatch")) is None
        else round(100 * share, 2),
    }
