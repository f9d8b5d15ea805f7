"""What a person reads of a result in the terminal: a table for each of the documents."""

from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING

from shibolet.cli import plans
from shibolet.cli.label_tables import show_labelled, show_loop
from shibolet.cli.terminal import OUT, facts, pct, table
from shibolet.cli.trial_tables import show_average, show_combined, show_decoding, show_ngram, show_search
from shibolet.gate.limits import counts_of
from shibolet.records.documents.alignment import Review
from shibolet.records.documents.base import Document
from shibolet.records.documents.beforehand import Fetched
from shibolet.records.documents.calibration import CalibrationFile
from shibolet.records.documents.comparison import (
    NOT_SHOWN,
    Block,
    Comparison,
    PairComparison,
    SystemsComparison,
    Waterfall,
)
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.lineage import Chain
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.robustness import SAID, Robustness
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.verified import VerifyReport
from shibolet.report.wording import p_value
from shibolet.scoring.metrics import shown

if TYPE_CHECKING:
    from shibolet.demo.round import Summary

GATE_PREPARED = "Gate on what was kept"


@singledispatch
def show(document: Document) -> None:
    """Print a document as tables and sentences: by its type, one of the functions below."""
    raise TypeError(f"there is no table for {type(document).__name__}")


for _of_trials in (show_average, show_combined, show_decoding, show_labelled, show_loop, show_ngram, show_search):
    show.register(_of_trials)


@show.register
def show_gate(gate: GateVerdict, title: str = "Gate") -> None:
    """The verdict and the rate behind it, by domain, and what else must be known of it."""
    rows = [
        (
            name,
            f"{rate.rate:.1f}%",
            f"{rate.lower:.1f}-{rate.upper:.1f}%" if rate.lower < rate.upper else "all heard",
            rate.num_low_quality,
            rate.num_heard,
        )
        for name, rate in [*gate.strata.items(), ("all", gate.low_quality_pct)]
    ]
    level = f" {gate.level_pct:.4g}%"
    table(f"{title}: {gate.decision}", ["domain", " low quality", level, " flagged", " heard"], rows)
    OUT.print(gate.recommendation, markup=False)
    facts(_beside(gate))


def _beside(gate: GateVerdict) -> list[tuple[str, str]]:
    """What stands beside a verdict: other ways to take it, what could not be scored, warnings and notes."""
    literal = f"{gate.literal_point_verdict} ({gate.sample_low_quality_pct:.1f}% of the sample as it is)"
    hours, corrected = gate.hours_low_quality_pct, gate.corrected_low_quality_pct
    known = "not available"
    if corrected:
        known = f"{corrected.rate:.1f}% ({corrected.lower:.1f} to {corrected.upper:.1f}%)"
    lines = [
        *(("warning", warning) for warning in gate.warnings),
        ("point verdict", literal),
        ("by hours", "not known" if hours is None else f"{hours:.1f}%"),
        ("corrected", f"{known}: {gate.corrected_from}"),
    ]
    if gate.failures:
        heard = gate.low_quality_pct.num_heard
        lines.append(("not scored", f"{heard - gate.num_scored:,} of {heard:,}: {counts_of(gate.failures)}"))
    return lines + [("note", note) for note in gate.notes]


@show.register
def show_review(review: Review) -> None:
    """What a person's verdicts say of the audit's."""
    rates = {
        "good among the flagged": review.false_discovery_pct,
        "bad among the passed": review.false_omission_pct,
        "low quality, corrected": review.corrected_low_quality_pct,
    }
    rows = [
        (title, f"{rate.rate:.1f}%", f"{rate.lower:.1f}-{rate.upper:.1f}%") for title, rate in rates.items() if rate
    ]
    title = f"Review: {review.num_answered} answered, {review.num_counted} of them in the random draw"
    table(title, ["", " rate", " 95%"], rows)
    for note in review.notes:
        OUT.print(note, markup=False)


@show.register
def show_calibration(made: CalibrationFile) -> None:
    """What was found of each kind of damage, and what harmless copies were flagged, over all clips."""
    lines = [line for line in made.table if line.by == "all"]
    found = [
        (line.row, line.num, f"{line.auroc:.3f}", f"{line.auroc_lower:.3f}-{line.auroc_upper:.3f}",
         pct(line.recall_at_1pct), pct(line.recall_at_2pct), pct(line.recall_at_5pct), pct(line.flagged))
        for line in lines if line.auroc is not None
    ]  # fmt: skip
    header = ["damage", " clips", " AUROC", " 95%", " at 1%", " at 2%", " at 5%", " flagged"]
    table("Found in recordings that it did not learn from, at a rate of false alarms", header, found)
    harmless = [(line.row, line.num, pct(line.flagged)) for line in lines if line.harmless]
    table("Good clips and harmless copies", ["", " clips", " flagged"], harmless)
    rates = made.detector
    by_part = {"gross": rates.sensitivity_gross, "mild": rates.sensitivity_mild}
    parts = ", ".join(f"{name} {pct(rate)}" for name, rate in by_part.items() if rate is not None)
    OUT.print(f"Sensitivity {pct(rates.sensitivity)} ({parts}), specificity {pct(rates.specificity)}.", markup=False)


def show_scores(scores: Mapping[str, Mapping[str, Scores]]) -> None:
    """What was measured of each system on each set, and what could not be heard."""
    every = [one for sets in scores.values() for one in sets.values()]
    columns, notes = shown(every)
    columns = [column for column in columns if column.in_terminal]
    rows = [(one.title, one.set, *(column.cell(one) or "-" for column in columns)) for one in every]
    table("Scores", ["model", "set", *(f" {column.title}" for column in columns)], rows)
    for note in notes:
        OUT.print(note, markup=False)
    for one in every:
        for sentence in (*_unheard(one), *(one.overlap.sentences if one.overlap else ())):
            OUT.print(f"{one.title}: {sentence}", markup=False)


def _unheard(scores: Scores) -> Iterator[str]:
    """What was asked of a set and not heard."""
    from shibolet.evaluate.stage import NO_HYPOTHESIS  # told when hypotheses are imported

    if failures := [one for one in scores.failures if one.reason != NO_HYPOTHESIS]:
        first = failures[0]
        yield (
            f"{len(failures):,} of {scores.num_utterances:,} clips of {scores.set} could not be heard: all their words "
            f"count as errors; the first is '{first.id}': {first.detail or first.reason}"
        )
    if unread := scores.unreadable_rows:
        yield (
            f"{len(unread):,} rows of {scores.set} could not be read at all and count nowhere; the first: "
            f"{unread[0].detail}"
        )


@show.register
def show_prepare(prepared: Prepared) -> None:
    """What left and by which rule, then what is kept."""
    rows = [
        (rule, effect, f"{amount.utterances:,}", f"{60 * amount.hours:.1f}")
        for effect, rules in (("dropped", prepared.dropped_by_rule), ("changed", prepared.changed_by_rule))
        for rule, amount in rules.items()
    ]
    if rows:
        table("Prepare", ["rule", "", " utterances", " minutes"], rows)
    num, hours = prepared.utterances, prepared.hours
    lines = [("kept", f"{num.kept:,} of {num.given:,} utterances, {hours.kept:.2f} of {hours.given:.2f} h")]
    if unread := sum(prepared.unread.values()):
        lines.append(("unread", f"{unread:,} rows never became utterances; prepared/ledger.jsonl has them first"))
    for name, split in (("train", prepared.train), ("dev", prepared.dev)):
        lines.append((name, f"{split.utterances:,} utterances, {split.hours:.2f} h"))
    lines += [("style", warning) for warning in prepared.writing.warnings]
    facts([*lines, *(("note", note) for note in prepared.notes)])


@show.register
def show_compare(compared: Comparison) -> None:
    """Baseline and candidate, what leads first."""
    rows = []
    for part in dict.fromkeys([compared.lead_with, "sets", "domains", "buckets", "lengths", "noise"]):
        blocks = compared.breakdown(part)
        rows += [_change(f"{part.removesuffix('s')} {name}", block) for name, block in blocks.items()]
    rows += [_change(f"other language {name}", block) for name, block in compared.forgetting.items()]
    rows.append(_change("all", compared.overall))
    _changes(compared, f": {compared.verdict}", rows)
    doubtful = compared.doubtful.sentences if compared.doubtful else ()
    target = [] if compared.target.domain else filter(None, [compared.target.sentence])  # else it is in the sentence
    for sentence in (compared.sentence, *target, *compared.beside, *compared.next_steps, *compared.notes, *doubtful):
        OUT.print(sentence, markup=False)


@show.register
def show_systems(compared: SystemsComparison) -> None:
    """Systems by themselves, then each against each."""
    rows = [(one.title, pct(one.wer.rate), pct(one.cer.rate)) for one in compared.systems.values()]
    table("Systems", ["", " WER", " CER"], rows)
    for pair in compared.pairs:
        _changes(pair, "", [*(_change(name, block) for name, block in pair.sets.items()), _change("all", pair.overall)])
        for sentence in (pair.sentence, *pair.beside):
            OUT.print(sentence, markup=False)


@show.register
def show_waterfall(made: Waterfall) -> None:
    """A row a system: its WER, and what it changes after the one before."""
    first, *_ = made.systems.values()
    rows = [(first.title, pct(first.wer.rate), "", "", "", "")]
    rows += [_step(step.candidate.title, step.overall, step.holm_p) for step in made.steps]
    rows.append(_step("all steps", made.whole.overall, None))
    table("Which part gave what", ["", " WER", " points", " 95%", "", " p (Holm)"], rows)
    for sentence in made.sentences:
        OUT.print(sentence, markup=False)


def _step(name: str, block: Block, holm_p: float | None) -> tuple[str, ...]:
    _, _before, after, points, interval, shown, p = _change(name, block)
    return name, after, points, interval, shown, p if holm_p is None else f"{p} ({p_value(holm_p)})"


def _changes(pair: PairComparison, verdict: str, rows: Sequence[tuple[str, ...]]) -> None:
    """A table of two candidates."""
    before, after = pair.titles
    header = ["", f" {before}", f" {after}", " points", " 95%", "", " p (Holm)"]
    table(f"WER, {before} against {after}{verdict}", header, rows)


def _change(name: str, block: Block) -> tuple[str, ...]:
    wer = block.wer
    points, interval, adjusted = wer.delta_points, wer.interval_points, wer.holm_p
    return (
        name,
        *(pct(errors.rate) for errors in wer.sides),
        "-" if points is None else f"{points:+.1f}",
        "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
        "not shown" if wer.shown == NOT_SHOWN else wer.shown,
        "-" if wer.p is None else p_value(wer.p) + ("" if adjusted is None else f" ({p_value(adjusted)})"),
    )


@show.register
def show_robustness(made: Robustness) -> None:
    """A row a dose: both, the difference, and how much of it is there on clean copies too."""
    rows = [
        (point.said, *_dose(point.block), "" if point.beyond_points is None else f"{point.beyond_points:+.1f}")
        for point in made.points
    ]
    rows += [(f"all {SAID[kind]}", *_dose(block), "") for kind, block in made.kinds.items()]
    header = ["", *(f" {title}" for title in made.titles), " points", " 95%", " Holm p", " beyond clean"]
    table("WER by dose", header, rows)
    for sentence in made.sentences:
        OUT.print(sentence, markup=False)


def _dose(block: Block) -> tuple[str, ...]:
    _, before, after, points, interval, *_ = _change("", block)
    return before, after, points, interval, "" if block.wer.holm_p is None else p_value(block.wer.holm_p)


@show.register
def show_chain(chain: Chain) -> None:
    """Each round on each set, and what its training took."""
    points = lambda value: f"{value:+.1f}"  # noqa: E731
    rows = [
        (
            one.title, name, pct(gain.wer),
            "-" if gain.interval is None else "{:.1f}-{:.1f}%".format(*(100 * end for end in gain.interval)),
            "" if gain.points is None else points(gain.points),
            "" if gain.interval_points is None else " to ".join(map(points, gain.interval_points)),
        )
        for one in chain.rounds
        for name, gain in one.sets.items()
    ]  # fmt: skip
    table("Rounds", ["", "set", " WER", " 95%", " points", " 95%"], rows)
    trained = [one for one in chain.rounds if one.folder]
    said = [
        (one.title, ", ".join(filter(None, (one.verdict or "not compared", one.time, one.cost)))) for one in trained
    ]
    facts([*said, *([("missing", chain.missing)] if chain.missing else [])])


show.register(plans.show_round_plan)


@show.register
def show_fetch(found: Fetched) -> None:
    """What is on this machine now, and what could not be had."""
    here = [("fetched", name, "") for name in found.fetched] + [("local", name, "") for name in found.local]
    table("Fetch", ["", "what", "why"], here + [("missing", name, why) for name, why in found.missing.items()])
    if not found.missing:
        OUT.print("From now on HF_HUB_OFFLINE=1 will do.", markup=False)


@show.register
def show_verify(report: VerifyReport) -> None:
    """Each check with what it found, and how long it took."""
    took = lambda name: f"{report.timing[name]:.1f} s" if name in report.timing else ""  # noqa: E731
    rows = [
        (check.name if first else "", check.state if first else "", sentence, took(check.name) if first else "")
        for check in report.checks
        for first, sentence in zip([True, *[False] * len(check.sentences)], check.sentences)
    ]
    table(f"Verify {report.model.name} on {report.machine.device}", ["check", "state", "found", " time"], rows)


def show_demo(summary: "Summary") -> None:
    """What a demo came to, for a person."""
    show_gate(summary.gate)
    if summary.gate_prepared:
        show_gate(summary.gate_prepared, GATE_PREPARED)
    truth = summary.truth
    rows = [
        (row.kind, row.domain, row.utterances, row.flagged, pct(row.flagged / row.utterances)) for row in truth.rows
    ]
    table("The truth, opened after the round", ["what was done", "domain", " utterances", " flagged", ""], rows)
    if left := truth.after_prepare:
        damaged = left.kept_damaged_pct
        kept = "" if damaged is None else f", {damaged:.1f}% of them damaged"
        OUT.print(
            f"Kept: {left.kept_utterances} utterances{kept}; "
            f"{left.good_hours_lost_pct:.1f}% of the good hours are lost."
        )
    if summary.compare:
        show_compare(summary.compare)
    for name, block in (truth.without_prepare or {}).items():
        OUT.print(f"Trained without prepare, {name}: WER {pct(block.wer.candidate.rate)}")
    if summary.chain:
        show_chain(summary.chain)
    OUT.print(f"Page: {summary.page}. All speech in it is synthetic.", markup=False, soft_wrap=True)
