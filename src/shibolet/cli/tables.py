"""What a person reads of a result in the terminal: a table for each of the documents."""

from collections.abc import Iterator, Sequence

from shibolet.cli.terminal import OUT, facts, pct, table
from shibolet.compare import NOT_SHOWN
from shibolet.gate.decision import counts_of
from shibolet.records.documents.alignment import Review
from shibolet.records.documents.calibration import CalibrationFile
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.prepared import Prepared
from shibolet.report.wording import NUMBER_AWARE


def show_gate_prepared(gate: GateVerdict) -> None:
    show_gate(gate, "Gate on what was kept")


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


def show_scores(scores: dict[str, dict[str, dict]]) -> None:
    """WER and CER by model and set, and WER with numbers compared as they are said where that is known."""
    rows = [
        (
            model,
            name,
            pct(one["wer"]["rate"]),
            pct((aware := one.get("number_aware")) and aware["wer"]["rate"]),
            pct(one["cer"]["rate"]),
            one["wer"]["errors"],
            one["wer"]["words"],
        )
        for model, sets in scores.items()
        for name, one in sets.items()
    ]
    table("Scores", ["model", "set", " WER", " number-aware", " CER", " errors", " words"], rows)
    if any(one.get("number_aware") for sets in scores.values() for one in sets.values()):
        OUT.print(NUMBER_AWARE, markup=False)
    for model, sets in scores.items():
        for name, one in sets.items():
            for sentence in _unheard(name, one):
                OUT.print(f"{model}: {sentence}", markup=False)
        for overlap in (one["overlap"] for one in sets.values() if one["overlap"]):
            for said in filter(None, (overlap["sentence"], overlap["note"])):
                OUT.print(f"{model}: {said}", markup=False)


def _unheard(name: str, scores: dict) -> Iterator[str]:
    """What was asked of a set and not heard."""
    from shibolet.evaluate.stage import NO_HYPOTHESIS  # told when hypotheses are imported

    if failures := [one for one in scores["failures"] if one["reason"] != NO_HYPOTHESIS]:
        first, asked = failures[0], scores["num_utterances"]
        yield (
            f"{len(failures):,} of {asked:,} clips of {name} could not be heard: all their words count as errors; "
            f"the first is '{first['id']}': {first['detail'] or first['reason']}"
        )
    if unread := scores["unreadable_rows"]:
        first = unread[0]
        yield f"{len(unread):,} rows of {name} could not be read at all and count nowhere; the first: {first['detail']}"


def show_prepare(prepared: Prepared) -> None:
    """What left and by which rule, then what is kept."""
    rows = [
        (rule, effect, f"{amount.utterances:,}", f"{60 * amount.hours:.1f}")
        for effect, rules in (("dropped", prepared.dropped_by_rule), ("kept in part", prepared.changed_by_rule))
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
    facts([*lines, *(("note", note) for note in prepared.notes)])


def show_decoding(tuned: dict) -> None:
    """WER and cost of each setting, and which to take."""
    interval = lambda low, high: "-" if low is None else f"{low:+.2f} to {high:+.2f}"  # noqa: E731
    rows = [
        (
            one["beam_size"], f"{one['length_penalty']:g}", f"{one['wer_pct']:.2f}%", f"{one['cer_pct']:.2f}%",
            f"{one['points']:+.2f}", interval(*one["interval_points"]), f"{one['audio_s_per_s']:g}",
            f"{one['times_greedy']:.1f}",
        )
        for one in tuned["settings"]
    ]  # fmt: skip
    level = f" {tuned['level_pct']:.3g}%"
    header = [" beams", " penalty", " WER", " CER", " points", level, " audio s/s", " times greedy"]
    table("Decoding, on dev", header, rows)
    OUT.print(tuned["sentence"], markup=False)
    chosen = tuned["recommended"]
    lines = [f"beam_size: {chosen['beam_size']}"] + [f"length_penalty: {chosen['length_penalty']:g}"] * (
        chosen["beam_size"] > 1
    )
    OUT.print(f"In the recipe: evaluate: {{{', '.join(lines)}}}", markup=False)


def show_compare(compared: dict) -> None:
    """Both rounds, what leads first."""
    rows = []
    order = dict.fromkeys([compared["lead_with"], "sets", "domains", "buckets", "lengths", "noise"])
    for part in order:
        rows += [_change(f"{part.removesuffix('s')} {name}", block) for name, block in compared.get(part, {}).items()]
    rows += [_change(f"other language {name}", block) for name, block in compared["forgetting"].items()]
    rows.append(_change("all", compared["overall"]))
    header = ["", " WER 1", " WER 2", " points", " 95%", "", " p (Holm)"]
    table(f"Round 1 against Round 2: {compared['verdict']}", header, rows)
    notes = [overlap["note"] for overlap in compared["overlaps"].values() if overlap["note"]]
    for sentence in (compared["sentence"], *compared["beside"], *compared["next_steps"], *notes):
        OUT.print(sentence, markup=False)


def show_systems(compared: dict) -> None:
    """Systems by themselves, then each against each."""
    rows = [(name, pct(one["wer"]["rate"]), pct(one["cer"]["rate"])) for name, one in compared["systems"].items()]
    table("Systems", ["", " WER", " CER"], rows)
    for pair in compared["pairs"]:
        names = pair["first"], pair["second"]
        rows = [_change(name, block, names) for name, block in pair["sets"].items()]
        rows.append(_change("all", pair["overall"], names))
        header = ["", f" {names[0]}", f" {names[1]}", " points", " 95%", "", " p (Holm)"]
        table(f"{names[0]} against {names[1]}", header, rows)
        for sentence in (pair["sentence"], *pair["beside"]):
            OUT.print(sentence, markup=False)


def _change(name: str, block: dict, labels: tuple[str, str] = ("round1", "round2")) -> tuple[str, ...]:
    wer = block["wer"]
    points, interval, p = wer["delta_points"], wer["interval_points"], wer["p"]
    adjusted = wer.get("holm_p")
    return (
        name,
        *(pct(wer[label]["rate"]) for label in labels),
        "-" if points is None else f"{points:+.1f}",
        "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
        "not shown" if wer["shown"] == NOT_SHOWN else wer["shown"],
        "-" if p is None else _p(p) + ("" if adjusted is None else f" ({_p(adjusted)})"),
    )


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def show_plan(plan: dict) -> None:
    """Steps, parts, bytes and hours by phase, then what they are of and what they cost."""
    where = f"{plan['gpu']['number']} x {plan['gpu']['name']}"
    for phase in plan["phases"]:
        rows = [(part["part"], f"{part['parameters']:,}", f"{part['peak_lr']:g}") for part in phase["parts"]]
        rows.append(("all that trains", f"{phase['trainable']:,}", f"{phase['trainable_pct']:.1f}%"))
        length = f"{phase['epochs']:g} epochs, {phase['steps']:,} steps, warm-up {phase['warmup_steps']}"
        table(f"Phase {phase['name']}: {length}", ["part", " weights", " peak rate"], rows)
        took = f"{phase['step_s']:.2f} s a step, {_hours(phase['hours'])} ({where})"
        facts([*_memory_of(phase, plan["gpu"]["memory_gib"]), ("time", took)])
        OUT.print()
    precision = plan["precision"]
    kept = f"masters {precision['masters']}, moments {precision['moments']}"
    lines = [
        ("training set", f"{plan['training_set']['utterances']:,} utterances, {plan['training_set_from']}"),
        ("step", plan["step"]["arithmetic"]),
        ("precision", f"{precision['weights_and_compute']} weights and compute, {kept}"),
        ("head", plan["model"]["head"]),
        ("model", plan["model_from"]),
    ]
    if cache_gib := plan["encoder_cache_gib"]:
        lines.append(("disk", f"{cache_gib:.1f} GiB for the encoder's kept output"))
    lines.append(("cost", _cost_of(plan, where)))
    if specified := plan["cost"]["specified_usd"]:
        lines.append(("specified", _specified(specified)))
    facts(lines + [("note", note) for note in plan["notes"]])


def _memory_of(phase: dict, gpu_gib: float | None) -> list[tuple[str, str]]:
    gib, digits = phase["gib"], 1 if phase["gib"]["sum"] >= 1 else 3
    terms = ", ".join(f"{name} {size:.{digits}f}" for name, size in gib.items() if name != "sum" and size)
    lines = [("GiB", f"{gib['sum']:.{digits}f}: {terms}")]
    if gpu_gib is None:
        return lines
    room = f"{phase['utilisation_pct']:.0f}% of {gpu_gib:g} GiB, margin {phase['margin_gib']:.1f} GiB"
    return [*lines, ("room", f"{room}; packs of up to {phase['largest_pack_tokens']:,} tokens fit")]


def _cost_of(plan: dict, where: str) -> str:
    cost, price = plan["cost"], plan["price_per_gpu_hour_usd"]
    hours = f"{_hours(cost['hours'])} on {where}"
    if price is None:
        return f"{hours}; the recipe names no price (train.price_per_gpu_hour_usd)"
    return f"{hours}, ${cost['usd']:.2f} at ${price:.2f} a GPU-hour: predicted, of the training steps alone"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _specified(usd_by_machine: dict[str, float]) -> str:
    return ", ".join(f"${usd:.0f} ({what})" for what, usd in usd_by_machine.items())


def show_fetch(found: dict) -> None:
    """What is on this machine now, and what could not be had."""
    rows = [(state, name, "") for state in ("fetched", "local") for name in found[state]]
    table("Fetch", ["", "what", "why"], rows + [("missing", name, why) for name, why in found["missing"].items()])
    if not found["missing"]:
        OUT.print("From now on HF_HUB_OFFLINE=1 will do.", markup=False)


def show_check(findings: Sequence) -> None:
    """What a recipe needs and whether it is there."""
    rows = [(finding.state, finding.what, finding.found) for finding in findings]
    table("Check", ["", "what", "found"], rows)


def show_demo(summary: dict) -> None:
    """The summary for a person."""
    show_gate(summary["gate"])
    if "gate_prepared" in summary:
        show_gate_prepared(summary["gate_prepared"])
    truth = summary["truth"]
    rows = [
        (row["kind"], row["domain"], row["utterances"], row["flagged"], pct(row["flagged"] / row["utterances"]))
        for row in truth["rows"]
    ]
    table("The truth, opened after the round", ["what was done", "domain", " utterances", " flagged", ""], rows)
    if left := truth.get("after_prepare"):
        OUT.print(
            f"Kept: {left['kept_utterances']} utterances, {left['kept_damaged_pct']:.1f}% of them damaged; "
            f"{left['good_hours_lost_pct']:.1f}% of the good hours are lost."
        )
    if "compare" in summary:
        show_compare(summary["compare"])
    for name, block in truth.get("without_prepare", {}).items():
        OUT.print(f"Trained without prepare, {name}: WER {pct(block['wer']['round2']['rate'])}")
    OUT.print(f"Page: {summary['page']}. All speech in it is synthetic.", markup=False, soft_wrap=True)
