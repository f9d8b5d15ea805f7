"""Documents of stages under the keys that trackers show: a number keeps its name and its value."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shibolet.records.audited import Audited
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.comparison import Block, Comparison
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.scores import Scores, Slice
from shibolet.records.files import hash_json
from shibolet.tracking.config import Shown, Table

# Of an audit: the rest are tables, which its page has.
_OF_AUDIT = {
    "low_quality_percentage", "low_quality_count", "total_samples", "population", "num_scored", "num_lost",
    "coverage_distribution", "domain_statistics", "failures", "suspects", "strata",
}  # fmt: skip
_BREAKDOWNS = ("sets", "domains", "buckets", "lengths", "noise", "speakers", "forgetting")
_AS_KEYS = ("sets", "domains", "buckets", "forgetting")  # the others are in the table alone: there may be hundreds


def audit_shown(report: AlignmentReport, *, prepared: bool) -> Shown:
    """The audit's summary with its domains and coverage."""
    name = _of("audit", prepared)
    texts = {f"{name}/decision": report.decision} if report.decision else {}
    return _shown(name, report.to_json(), 0, numbers_of(report.model_dump(mode="json", include=_OF_AUDIT), name), texts)


def gate_shown(verdict: GateVerdict, *, prepared: bool) -> Shown:
    """The verdict; of what prepare kept it has keys of its own."""
    name, content = _of("gate", prepared), verdict.to_json()
    numbers = numbers_of(verdict.model_dump(mode="json", exclude={"config"}), name)
    texts = {f"{name}/decision": verdict.decision, f"{name}/recommendation": verdict.recommendation}
    return _shown(name, content, 0, numbers, texts)


def scores_shown(scores: Scores, step: int) -> Shown:
    """Final scores on one set, in all, by domain and by duration."""
    head = f"scores/{scores.label}/{scores.set}"
    numbers = {
        "utterances": scores.num_utterances, "empty_hypotheses": scores.num_empty_hypotheses,
        "looping_utterances": scores.loops.utterances, "failures": len(scores.failures),
        "wer": scores.wer.rate, "cer": scores.cer.rate, **_ends("wer", scores.wer.interval),
        **_ends("cer", scores.cer.interval), **_slices("domain", scores.by_domain),
        **_slices("bucket", scores.by_bucket),
    }  # fmt: skip
    return _shown(head, scores.to_json(), step, numbers_of(numbers, head))


def comparison_shown(comparison: Comparison, step: int) -> Shown:
    """Every number of the comparison: by set, domain and duration under keys, all slices in a table.

    `test/` has what rounds are compared by, under keys that no label of a round is part of.
    """
    plain = comparison.model_dump(mode="json", exclude=set(_BREAKDOWNS) - set(_AS_KEYS))
    blocks = [("overall", "", comparison.overall)]
    blocks += [(name, key, block) for name in _BREAKDOWNS for key, block in getattr(comparison, name).items()]
    texts = {"compare/verdict": comparison.verdict, "compare/sentence": comparison.sentence}
    tables = {"compare/slices": _slices_table(blocks)}
    numbers = numbers_of(plain, "compare") | numbers_of(_test(comparison), "test")
    texts |= {"test/verdict": comparison.verdict}
    return _shown("compare", comparison.to_json(), step, numbers, texts, tables)


def _test(comparison: Comparison) -> dict[str, Any]:
    """WER of both sides, on all sets together and by set, and whether the result is kept."""

    def of(block: Block) -> dict[str, float | None]:
        wer = block.wer
        return {"wer": wer.candidate.rate, "baseline_wer": wer.baseline.rate, "delta_points": wer.delta_points}

    by_set = {name: of(block) for name, block in comparison.sets.items()}
    return {**of(comparison.overall), "is_kept": comparison.is_kept, "sets": by_set}


def examples_shown(name: str, columns: Sequence[str], rows: Iterable[Sequence[str | float | None]], step: int) -> Shown:
    """Utterances to read."""
    table = Table(columns=tuple(columns), rows=tuple(map(tuple, rows)))
    return _shown(f"examples/{name}", table.model_dump(mode="json"), step, {}, tables={f"examples/{name}": table})


def low_quality_shown(rows: Sequence[Audited]) -> Shown:
    """Utterances that the audit calls low quality, as they are given."""
    columns = ("id", "domain", "duration_s", "text", "heard", "confidence", "coverage", "suspect", "reasons")
    found = [
        (row.id, row.domain, row.duration_s, row.text, row.hypothesis, row.confidence, row.coverage, row.suspect,
         " ".join(row.reasons))
        for row in rows
    ]  # fmt: skip
    return examples_shown("low_quality", columns, found, 0)


def numbers_of(value: Mapping[str, Any], head: str) -> dict[str, float]:
    """The numbers in plain data under `head/key/key`; places in a list are its keys, what is not known has none."""
    found: dict[str, float] = {}
    for key, inner in value.items():
        place = f"{head}/{key}"
        if isinstance(inner, Mapping):
            found |= numbers_of(inner, place)
        elif isinstance(inner, list | tuple):
            found |= numbers_of({str(i): one for i, one in enumerate(inner)}, place)
        elif isinstance(inner, int | float):
            found[place] = float(inner)
    return found


def _of(stage: str, prepared: bool) -> str:
    return f"{stage}_prepared" if prepared else stage


def _shown(
    name: str, content: Any, step: int, numbers: dict[str, float], texts: dict[str, str] | None = None,
    tables: dict[str, Table] | None = None,
) -> Shown:  # fmt: skip
    return Shown(
        name=name, digest=hash_json([content, step]), step=step, numbers=numbers, texts=texts or {}, tables=tables or {}
    )


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}_lower": interval[0], f"{name}_upper": interval[1]}


def _slices(kind: str, slices: Mapping[str, Slice]) -> dict[str, float | None]:
    rates = {name: {"wer": part.wer.rate, "cer": part.cer.rate} for name, part in slices.items()}
    return {f"{kind}/{name}/{metric}": rate for name, by_metric in rates.items() for metric, rate in by_metric.items()}


def _slices_table(blocks: Sequence[tuple[str, str, Block]]) -> Table:
    """A row a slice, its numbers in columns."""
    numbers = [numbers_of(block.model_dump(mode="json"), "") for _, _, block in blocks]
    columns = list(dict.fromkeys(key for found in numbers for key in found))
    rows = [
        (breakdown, name, *(found.get(key) for key in columns))
        for (breakdown, name, _), found in zip(blocks, numbers, strict=True)
    ]
    return Table(columns=("breakdown", "slice", *(key.removeprefix("/") for key in columns)), rows=tuple(rows))
