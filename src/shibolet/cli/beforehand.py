"""Commands before a round: what it takes, whether it is there, and getting it."""

from typing import Annotated

import typer

from shibolet.cli.options import AsJson, Changes, RecipeName, RunDir, answer, quiet, run_folder


def plan(
    recipe: RecipeName,
    run_dir: RunDir = None,
    changes: Changes = None,
    utterances: Annotated[
        int | None, typer.Option(min=1, help="Size of the training set, before it is prepared.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Ranks.")] = 1,
    gpu: Annotated[str, typer.Option(help="A100, H100 or H200: what time is predicted for.")] = "A100",
    gpu_memory_gib: Annotated[float | None, typer.Option(min=1, help="Of one GPU: packs are made to fit.")] = None,
    json_: AsJson = False,
):
    """Steps, trainable parts, memory, time and cost by phase, from the configuration alone."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds.stages import make_plan

    quiet()
    loaded = load_recipe(recipe, changes or [])
    loaded.require("plan", "models", "train")
    planned = make_plan(loaded, run_folder(run_dir, loaded.name), utterances, gpus, gpu, gpu_memory_gib)
    answer(json_, planned)


def check(recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False):
    """Whether GPU, memory, disk, token, models and data are there, before anything is paid for. Ends with 3 if not."""
    from shibolet.cli.terminal import track
    from shibolet.recipe import load_recipe
    from shibolet.rounds.check import check_recipe

    quiet()
    loaded = load_recipe(recipe, changes or [])
    with track("check"):
        checked = check_recipe(loaded, run_folder(run_dir, loaded.name))
    answer(json_, checked)
    raise typer.Exit(0 if checked.is_ready else 3)


def fetch(recipe: RecipeName, changes: Changes = None, json_: AsJson = False):
    """Download the models and data sets of a recipe; the same command goes on. Ends with 3 where one cannot be had."""
    from shibolet.cli.terminal import track
    from shibolet.recipe import load_recipe
    from shibolet.rounds.fetch import fetch_recipe

    quiet()
    found = fetch_recipe(load_recipe(recipe, changes or []), track)
    answer(json_, found)
    raise typer.Exit(3 if found.missing else 0)
