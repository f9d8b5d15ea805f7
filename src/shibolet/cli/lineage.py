"""Commands from round to round."""

from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.next_steps import advise, after_loop, after_rounds
from shibolet.cli.options import (
    WHOLE,
    AsJson,
    Changes,
    FinishedRun,
    Gpus,
    MirrorUrl,
    RecipeName,
    answer,
    print_json,
    quiet,
    require_run,
    say,
)


def rounds(run_dir: FinishedRun, json_: AsJson = False):
    """List the rounds that led to this one: verdicts, WER by set with intervals, time and cost."""
    from shibolet.cli.tables import show_chain
    from shibolet.report.lineage import chain_of

    require_run(run_dir)
    chain = chain_of(run_dir)
    if json_:
        print_json(chain.model_dump(mode="json"))
    else:
        show_chain(chain)
        after_rounds(chain, run_dir)


def loop(
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the loop. Default: runs/NAME-loop.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, metavar="N", help="The most rounds.")] = 3,
    seeds: Annotated[int, typer.Option(min=3, metavar="N", help="Trainings of each round, with different seeds.")] = 3,
    changes: Changes = None,
    json_: AsJson = False,
    gpus: Gpus = 1,
    mirror: MirrorUrl = None,
):
    """Repeat rounds as long as each gains; the model before hears the data again. The same command continues."""
    from shibolet.cli.tables import show_chain
    from shibolet.cli.terminal import tell, track
    from shibolet.recipe import load_recipe
    from shibolet.report.lineage import chain_of
    from shibolet.rounds.loop import do_loop

    quiet()
    loaded = load_recipe(recipe, changes or [])
    loaded.require("loop", *WHOLE)
    folder = out or Path("runs") / f"{loaded.name}-loop"
    found = do_loop(loaded, folder, turns=turns, seeds=seeds, tell=tell, track=track, gpus=gpus, mirror=mirror)
    answer(json_, found)
    if not json_:
        show_chain(chain_of(folder / found.turns[-1].folder))
        after_loop(found, folder)


def next_(
    run_dir: FinishedRun,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Write the recipe to this file.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="RECIPE", help="A recipe to start from, such as hebrew-round3.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the next round. Default: this title with the next number.")
    ] = None,
    changes: Changes = None,
    force: Annotated[bool, typer.Option("--force", help="Start from a model that was not kept.")] = False,
):
    """Write the recipe of the next round, which starts from the model of this round and must beat it."""
    from shibolet.rounds.lineage import write_next

    require_run(run_dir)
    recipe = write_next(run_dir, out, source=source, title=title, changes=changes or [], force=force)
    say(f"{out}: {recipe.title}, after {recipe.models.baseline_title}.")
    advise("run it", "run", str(out))
