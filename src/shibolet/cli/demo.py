"""The demo's commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from shibolet.cli.options import AsJson, Changes, print_json, quiet

app = typer.Typer(
    help="The whole round on synthetic Hebrew speech, and the truth after it.", invoke_without_command=True
)


@app.callback()
def demo(
    context: typer.Context,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and the training.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    changes: Changes = None,
    without_prepare: Annotated[bool, typer.Option(help="Also train the same round on the raw data.")] = False,
    json_: AsJson = False,
):
    """The whole round on synthetic Hebrew speech of which a fifth is damaged, and the truth after it."""
    if context.invoked_subcommand:
        return
    from shibolet.cli.tables import show_demo
    from shibolet.cli.terminal import tell, track
    from shibolet.demo.round import run_demo

    quiet()
    summary = run_demo(seed, out, changes or [], without_prepare=without_prepare, tell=tell, track=track)
    print_json(summary) if json_ else show_demo(summary)
    raise typer.Exit(summary.exit_code)


@app.command()
def build(
    name: Annotated[Literal["round1", "aligner", "ctc"], typer.Argument(help="Which of the three.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the checkpoint goes.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where the speech goes.")],
    seed: Annotated[int, typer.Option(min=0)] = 1,
    device: str = "cpu",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    max_minutes: Annotated[float | None, typer.Option(min=0.1, help="Of training; fewer steps if need be.")] = None,
):
    """Train one of the tiny checkpoints from nothing, as the shipped one was."""
    from dataclasses import replace

    from shibolet.demo import build as checkpoints

    settings = replace(checkpoints.SETTINGS[name], max_minutes=max_minutes)
    checkpoints.build(settings, out, work, seed=seed, device=device, num_workers=workers)
