"""Tables of texts that machines wrote, and of the rounds that trained on them."""

from shibolet.cli.terminal import OUT, facts, table
from shibolet.records.documents.labelled import Labelled, Threshold
from shibolet.records.documents.loop import Loop


def show_labelled(found: Labelled) -> None:
    """Whose texts train, the limits and what they let pass, what became of each source, and the habits."""
    if found.authors:
        table(
            "Whose texts train, by word errors on clips with a known text",
            ["domain", " clips", " writer", " listener", " by chance", "trains"],
            [
                (one.domain, f"{one.clips:,}", f"{one.writer_wer_pct:.1f}%", f"{one.listener_wer_pct:.1f}%",
                 f"{one.chance:.1%}" if one.listener_wer_pct < one.writer_wer_pct else "-", one.by)
                for one in found.authors
            ],
        )  # fmt: skip
        for one in found.authors:
            if one.refusal:
                OUT.print(f"{one.domain}: the listener hears better, but {one.refusal}.", markup=False)
    _limits("Texts that train, by letters that differ or by how unlikely the other finds them", found.agreement)
    if found.given is not None:
        _limits("Damaged texts, by letters that differ from what the writer reads", found.given)
    rows = []
    for name, source in found.sources.items():
        rows.append((name, "passed", f"{source.admitted.utterances:,}", f"{60 * source.admitted.hours:.1f}"))
        rows += [(name, rule, f"{of.utterances:,}", f"{60 * of.hours:.1f}") for rule, of in source.refused.items()]
    if rows:
        table("Audio without text", ["source", "", " pieces", " minutes"], rows)
    if found.habits:
        table(
            "Words that are written where another is said",
            ["written", "said", " times", " of", " refused", "by"],
            [
                (one.confusion.text, one.confusion.heard, f"{one.confusion.count:,}",
                 f"{one.confusion.occurrences:,}", f"{one.refused:,}", one.by)
                for one in found.habits
            ],
        )  # fmt: skip
    OUT.print(found.sentence, markup=False)
    facts([("writer", found.writer), ("listener", found.listener), *(("note", note) for note in found.notes)])


def _limits(title: str, threshold: Threshold) -> None:
    table(
        title,
        [" limit", " pass", " false", " at most", ""],
        [
            (f"{step.limit:.0%}" if step.by == "letters" else f"{step.limit:g} nats",
             f"{step.accepted:,}", f"{step.false_accepts:,}", f"{step.upper_pct:.1f}%",
             "chosen" if (step.limit, step.by) == (threshold.limit, threshold.by) else "")
            for step in threshold.steps
        ],
    )  # fmt: skip


def show_loop(loop: Loop) -> None:
    """What each turn came to, and which round to keep."""
    pct = lambda rate: "-" if rate is None else f"{rate:.1f}%"  # noqa: E731
    rows = [
        (
            one.folder, pct(one.low_quality_pct), pct(one.low_quality_prepared_pct),
            "-" if one.flagged is None else f"{one.flagged.taken_back:,}",
            "-" if one.flagged is None else f"{one.flagged.corrected:,}",
            "-" if one.points is None else f"{one.points:+.2f}",
            "-" if one.interval_points is None else "{:+.2f} to {:+.2f}".format(*one.interval_points),
        )
        for one in loop.turns
    ]  # fmt: skip
    header = ["", " flagged", " after", " taken back", " corrected", " points", f" {loop.level_pct:.3g}%"]
    table(f"Loop, {loop.seeds} seeds a turn", header, rows)
    for one in loop.turns:
        OUT.print(one.sentence, markup=False)
    OUT.print(loop.sentence, markup=False)
