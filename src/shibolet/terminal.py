"""What a person sees in the terminal: sentences and progress on the error output, tables on standard output."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

OUT, ERR = Console(highlight=False), Console(stderr=True, highlight=False)


def tell(sentence: str) -> None:
    """A sentence about what is going on."""
    ERR.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def track(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is fed with (done, in all), 0 in all being not known; away from a terminal, two lines."""
    if not ERR.is_terminal:
        tell(f"{title} ...")
        started = time.monotonic()
        yield lambda done, total: None
        tell(f"{title}: {time.monotonic() - started:.0f} s")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns whose header begins with a blank are numbers."""
    OUT.print(title, style="bold", markup=False)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in header:
        grid.add_column(name.strip(), justify="right" if name.startswith(" ") else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(str, row))
    OUT.print(grid)


def pct(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}%"


def show_gate_prepared(gate: dict) -> None:
    show_gate(gate, "Gate on what was kept")


def show_gate(gate: dict, title: str = "Gate") -> None:
    """The verdict and the rate behind it, by domain."""
    rows = [
        (
            name,
            f"{rate['rate']:.1f}%",
            f"{rate['lower']:.1f}-{rate['upper']:.1f}%",
            rate["num_low_quality"],
            rate["num_heard"],
        )
        for name, rate in [*gate["strata"].items(), ("all", gate["low_quality_pct"])]
    ]
    table(f"{title}: {gate['decision']}", ["domain", " low quality", " 95%", " flagged", " heard"], rows)
    OUT.print(gate["recommendation"], markup=False)


def show_review(review: dict) -> None:
    """What a person's verdicts say of the audit's."""
    names = {
        "false_discovery_pct": "good among the flagged",
        "false_omission_pct": "bad among the passed",
        "corrected_low_quality_pct": "low quality, corrected",
    }
    rows = [
        (title, f"{rate['rate']:.1f}%", f"{rate['lower']:.1f}-{rate['upper']:.1f}%")
        for name, title in names.items()
        if (rate := review[name])
    ]
    answered, counted = review["num_answered"], review["num_counted"]
    table(f"Review: {answered} answered, {counted} of them in the random draw", ["", " rate", " 95%"], rows)
    for note in review["notes"]:
        OUT.print(note, markup=False)


def show_calibration(content: dict) -> None:
    """What was found of each kind of damage, and what harmless copies were flagged, over all clips."""
    lines = [line for line in content["table"] if line["by"] == "all"]
    found = [
        (line["row"], line["num"], f"{line['auroc']:.3f}", f"{line['auroc_lower']:.3f}-{line['auroc_upper']:.3f}",
         *(pct(line[f"recall_at_{fa}%"]) for fa in (1, 2, 5)), pct(line["flagged"]))
        for line in lines if "auroc" in line
    ]  # fmt: skip
    header = ["damage", " clips", " AUROC", " 95%", " at 1%", " at 2%", " at 5%", " flagged"]
    table("Found in recordings that it did not learn from, at a rate of false alarms", header, found)
    harmless = [(line["row"], line["num"], pct(line["flagged"])) for line in lines if line["harmless"]]
    table("Good clips and harmless copies", ["", " clips", " flagged"], harmless)
    rates = content["detector"]
    OUT.print(f"Sensitivity {pct(rates['sensitivity'])}, specificity {pct(rates['specificity'])}.", markup=False)


def show_scores(scores: dict[str, dict[str, dict]]) -> None:
    """WER and CER by model and set."""
    rows = [
        (model, name, pct(one["wer"]["rate"]), pct(one["cer"]["rate"]), one["wer"]["errors"], one["wer"]["words"])
        for model, sets in scores.items()
        for name, one in sets.items()
    ]
    table("Scores", ["model", "set", " WER", " CER", " errors", " words"], rows)


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
    header = [" beams", " penalty", " WER", " CER", " points", " 95%", " audio s/s", " times greedy"]
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
    for sentence in (compared["sentence"], *compared["next_steps"]):
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
        OUT.print(pair["sentence"], markup=False)


def _change(name: str, block: dict, labels: tuple[str, str] = ("round1", "round2")) -> tuple[str, ...]:
    wer = block["wer"]
    points, interval, p = wer["delta_points"], wer["interval_points"], wer["sign_flip_p"]
    adjusted = wer.get("holm_p")
    return (
        name,
        *(pct(wer[label]["rate"]) for label in labels),
        "-" if points is None else f"{points:+.1f}",
        "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
        wer["shown"],
        "-" if p is None else f"{p:.3f}" + ("" if adjusted is None else f" ({adjusted:.3f})"),
    )


def show_plan(plan: dict) -> None:
    """Steps, parts and bytes by phase."""
    for phase in plan["phases"]:
        rows = [(part["part"], f"{part['parameters']:,}", f"{part['peak_lr']:g}") for part in phase["parts"]]
        rows.append(("all that trains", f"{phase['trainable']:,}", f"{phase['trainable_pct']:.1f}%"))
        steps = f"{phase['steps']:,} steps" if phase["steps"] else "steps not known yet"
        title = f"Phase {phase['name']}: {phase['epochs']:g} epochs, {steps}, warm-up {phase['warmup_steps']}"
        table(title, ["part", " weights", " peak rate"], rows)
        gib, digits = phase["gib"], 1 if phase["gib"]["sum"] >= 1 else 3
        terms = ", ".join(f"{name} {size:.{digits}f}" for name, size in gib.items() if name != "sum" and size)
        OUT.print(f"GiB: {terms}; sum {gib['sum']:.{digits}f}", markup=False)
        if phase["margin_gib"] is not None:
            OUT.print(
                f"Of {plan['gpu']['memory_gib']:g} GiB: {phase['utilisation_pct']:.0f}%, margin "
                f"{phase['margin_gib']:.1f} GiB; packs of up to {phase['largest_pack_tokens']:,} tokens fit",
                markup=False,
            )
        hours = "" if phase["hours"] is None else f", {phase['hours']:.1f} h"
        where = f"{plan['gpu']['number']} x {plan['gpu']['name']}"
        OUT.print(f"Predicted on {where}: {phase['step_s']:.2f} s a step{hours}\n", markup=False)
    OUT.print(f"Step: {plan['step']['arithmetic']}.", markup=False)
    if plan["encoder_cache_gib"] != 0:
        size = "not known yet" if plan["encoder_cache_gib"] is None else f"{plan['encoder_cache_gib']:.1f} GiB"
        OUT.print(f"Disk for the encoder's kept output: {size}.", markup=False)
    for note in (f"Model: {plan['model_from']}.", *plan["notes"]):
        OUT.print(note, markup=False)
    cost, price = plan["cost"], plan["price_per_gpu_hour_usd"]
    if cost["usd"] is not None:
        specified = ", ".join(f"${usd:.0f} ({what})" for what, usd in cost["specified_usd"].items())
        OUT.print(
            f"Predicted: {cost['hours']:.1f} h, ${cost['usd']:.2f} at ${price:.2f} a GPU-hour; the specification: "
            f"{specified}.",
            markup=False,
        )
    elif price is not None:
        OUT.print(f"Price: ${price:.2f} a GPU-hour.", markup=False)


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
