"""The command that writes the files by which a scheduler runs a round."""

from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.options import WHOLE, Changes, MirrorUrl, RecipeName, RunDir, quiet, run_folder
from shibolet.errors import RecipeError


def launch(
    recipe: RecipeName,
    slurm: Annotated[bool, typer.Option("--slurm", help="Batch scripts, and one that submits them.")] = False,
    skypilot: Annotated[bool, typer.Option("--skypilot", help="Tasks for machines of a cloud.")] = False,
    out: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Else launch/NAME.")] = None,
    hear: Annotated[int, typer.Option(min=1, metavar="N", help="Parts that are heard, one GPU each.")] = 4,
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Machines that train.")] = 1,
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="GPUs of each of them.")] = 8,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Their name for the scheduler, such as a100 or A100.")
    ] = None,
    run_dir: RunDir = None,
    changes: Changes = None,
    mirror: MirrorUrl = None,
):
    """Write the files by which Slurm or SkyPilot runs a round: hear on many, train on few, evaluate on one."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds.launching import Machines, write_launch_files

    if slurm == skypilot:
        raise RecipeError("launch: say --slurm or --skypilot")
    quiet()
    loaded = load_recipe(recipe, changes or [])
    loaded.require("launch", *WHOLE)
    machines = Machines(hear=hear, nodes=nodes, gpus=gpus, gpu=gpu)
    written = write_launch_files(
        loaded, recipe, run_folder(run_dir, loaded.name), changes or [], machines,
        "slurm" if slurm else "skypilot", out or Path("launch") / loaded.name, mirror,
    )  # fmt: skip
    for path in written:
        typer.echo(path)
    before = "" if slurm or mirror else f"sky volumes apply {written[1]}; "
    typer.echo(
        f"Read them, change what your machines need, then {before}"
        + (f"{written[-1]}" if slurm else f"sky jobs launch {written[0]}")
    )
