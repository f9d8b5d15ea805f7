"""Commands before a round: what it takes, whether it is there, and getting it."""

from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.next_steps import advise, same
from shibolet.cli.options import (
    WHOLE,
    AsJson,
    Changes,
    MirrorUrl,
    NewFolder,
    RecipeName,
    RunDir,
    answer,
    print_json,
    quiet,
    run_folder,
    say,
)


def plan(
    recipe: RecipeName,
    run_dir: RunDir = None,
    changes: Changes = None,
    utterances: Annotated[
        int | None, typer.Option(min=1, help="Size of the training set, before it is prepared.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs. Default: 1.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Predict the time for A100 (default), H100, H200 or CPU.")] = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(min=1, help="Memory of one GPU; packs are made to fit.")
    ] = None,
    rates_from: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Predict from the times of a finished round, on its machine.")
    ] = None,
    json_: AsJson = False,
):
    """Predict time and cost of the round, and steps, trainable parts and memory of its training."""
    from shibolet.recipe import load_recipe
    from shibolet.rounds.plan import make_plan

    quiet()
    loaded = load_recipe(recipe, changes or [])
    loaded.require("plan", *WHOLE)
    folder = run_folder(run_dir, loaded.name)
    planned = make_plan(loaded, folder, utterances, gpus, gpu, gpu_memory_gib, rates_from)
    answer(json_, planned)
    if not json_:
        advise("see whether the machine, the models and the data are ready", "check", *same(recipe, run_dir, changes))


def check(
    recipe: RecipeName, run_dir: RunDir = None, changes: Changes = None, json_: AsJson = False,
    mirror: MirrorUrl = None,
):  # fmt: skip
    """Check GPU, memory, disk, token, models and data before you pay. Ends with 3 if something is missing."""
    from shibolet.cli.terminal import finding
    from shibolet.recipe import load_recipe
    from shibolet.rounds.check import check_recipe

    quiet()
    loaded = load_recipe(recipe, changes or [])
    folder = run_folder(run_dir, loaded.name)
    checked = check_recipe(loaded, folder, (lambda _: None) if json_ else finding, mirror)
    if json_:
        print_json(checked)
    elif checked.is_ready:
        advise("download models and data", "fetch", *same(recipe, None, changes))
    else:
        advise("mend what is missing, and check again", "check", *same(recipe, run_dir, changes))
    raise typer.Exit(0 if checked.is_ready else 3)


def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where --mirror has put a run folder: s3://...")],
    run_dir: NewFolder,
):
    """Copy a run folder from a store of objects, to look at it. 'run --mirror' goes on with the round instead."""
    from shibolet.records.files import make_folder
    from shibolet.records.mirror import Mirror
    from shibolet.rounds.mirroring import require_store

    quiet()
    require_store(url)
    make_folder(run_dir)
    say(Mirror(run_dir, url).pull())
    advise("look at the page, or use the model", "report", str(run_dir))


def fetch(recipe: RecipeName, changes: Changes = None, json_: AsJson = False):
    """Download the models and data sets of a recipe. The same command continues. Ends with 3 after a failure."""
    from shibolet.cli.terminal import track
    from shibolet.recipe import load_recipe
    from shibolet.rounds.fetch import fetch_recipe

    quiet()
    found = fetch_recipe(load_recipe(recipe, changes or []), track)
    answer(json_, found)
    if not json_:
        what = "get what is missing with the same command" if found.missing else "run the round"
        advise(what, "fetch" if found.missing else "run", *same(recipe, None, changes))
    raise typer.Exit(3 if found.missing else 0)
