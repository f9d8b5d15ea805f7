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


def show_scores(scores: dict[str, dict[str, dict]]) -> None:
    """WER and CER by model and set."""
    rows = [
        (model, name, pct(one["wer"]["rate"]), pct(one["cer"]["rate"]), one["wer"]["errors"], one["wer"]["words"])
        for model, sets in scores.items()
        for name, one in sets.items()
    ]
    table("Scores", ["model", "set", " WER", " CER", " errors", " words"], rows)


def show_compare(compared: dict) -> None:
    """Both rounds, what leads first."""
    rows = []
    order = dict.fromkeys([compared["lead_with"], "sets", "domains", "buckets"])
    for part in order:
        rows += [_change(f"{part[:-1]} {name}", block) for name, block in compared[part].items()]
    rows.append(_change("all", compared["overall"]))
    table(f"Round 1 against Round 2: {compared['verdict']}", ["", " WER 1", " WER 2", " points", " 95%"], rows)
    for sentence in (compared["sentence"], *compared["next_steps"]):
        OUT.print(sentence, markup=False)


def _change(name: str, block: dict) -> tuple[str, ...]:
    wer = block["wer"]
    points, interval = wer["delta_points"], wer["interval_points"]
    return (
        name,
        pct(wer["round1"]["rate"]),
        pct(wer["round2"]["rate"]),
        "-" if points is None else f"{points:+.1f}",
        "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
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
        OUT.print(f"GiB: {terms}; sum {gib['sum']:.{digits}f}\n", markup=False)
    OUT.print(f"Step: {plan['step']['arithmetic']}.", markup=False)
    OUT.print(f"Not in the sum: {plan['bytes_not_included']}.", markup=False)
    for note in (f"Model: {plan['model_from']}.", *plan["notes"]):
        OUT.print(note, markup=False)
    if plan["price_per_gpu_hour_usd"] is not None:
        OUT.print(f"Price: ${plan['price_per_gpu_hour_usd']:.2f} a GPU-hour.", markup=False)


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
