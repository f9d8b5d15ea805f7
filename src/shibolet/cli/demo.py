"""The demo's commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from shibolet.cli.next_steps import advise
from shibolet.cli.options import AsJson, Changes, print_json, quiet

app = typer.Typer(
    help="Run a whole round on synthetic Hebrew speech, and compare the audit with the known damage.",
    invoke_without_command=True,
)


def demo(
    context: typer.Context,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the data and the training.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    changes: Changes = None,
    rounds: Annotated[
        int, typer.Option(min=2, metavar="N", help="Run through Round N; Round 1 comes with the package.")
    ] = 2,
    without_prepare: Annotated[
        bool, typer.Option("--without-prepare", help="Also train the same round on the raw data.")
    ] = False,
    json_: AsJson = False,
):
    """The whole round on synthetic Hebrew speech of which a fifth is damaged, and the truth after it."""
    if context.invoked_subcommand:
        return
    from shibolet.cli.tables import show_demo
    from shibolet.cli.terminal import tell, track
    from shibolet.demo.round import run_demo

    quiet()
    summary = run_demo(
        seed, out, changes or [], last_round=rounds, without_prepare=without_prepare, tell=tell, track=track
    )
    print_json(summary) if json_ else show_demo(summary)
    if summary.exit_code == 0:
        more = max(rounds, 2) + 1
        advise(f"open the page, or go on to Round {more}", "demo", "--rounds", str(more), *_same(seed, out, changes))
    raise typer.Exit(summary.exit_code)


def _same(seed: int, out: Path, changes: list[str] | None) -> list[str]:
    """The options of the demo for its next command: another seed or another setting would be another round."""
    told = [word for change in changes or [] for word in ("--set", change)]
    return ["--out", str(out), *(["--seed", str(seed)] if seed else []), *told]


def build(
    name: Annotated[Literal["round1", "aligner", "ctc"], typer.Argument(help="The checkpoint to build.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the checkpoint.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the speech.")],
    seed: Annotated[int, typer.Option(min=0)] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make speech and features.")] = 2,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps. Default: as many as for the shipped one.")
    ] = None,
):
    """Train one of the tiny checkpoints from nothing; the same command continues after an interruption."""
    from dataclasses import replace

    from shibolet.demo import build as checkpoints

    settings = checkpoints.SETTINGS[name]
    settings = replace(settings, num_steps=steps or settings.num_steps)
    checkpoints.build(settings, out, work, seed=seed, num_workers=workers)
