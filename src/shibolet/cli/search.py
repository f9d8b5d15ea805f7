"""The command that searches learning rates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shibolet.cli.next_steps import advise
from shibolet.cli.options import AsJson, Changes, DryRun, RecipeName, answer, round_of, run_folder, say
from shibolet.errors import RecipeError

if TYPE_CHECKING:
    from shibolet.records.documents.search import SearchTable


def search(
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the recipe with the recommended rates.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Multiply the rate of this part or tower; repeat. Default: each tower."),
    ] = None,
    warmup: Annotated[bool, typer.Option("--warmup", help="Multiply the warm-up too.")] = False,
    rank: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="R", help="Also try this rank of adapters; repeat. First phase only."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="TOWER=N", help="Also try N trainable layers, as in encoder=4; repeat."),
    ] = None,
    phase: Annotated[str | None, typer.Option(metavar="NAME", help="The phase to search; else the last one.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Number of trials. Default: it follows from the budget.")
    ] = None,
    most: Annotated[
        float, typer.Option("--most", min=1.1, metavar="X", help="Factors lie between 1/X and X.")
    ] = 10.0,
    budget: Annotated[
        float, typer.Option(min=0.05, metavar="T", help="Cost in units of one training, with the phases before.")
    ] = 1.2,
    proposals: Annotated[str, typer.Option(help="optuna; or halton, a fixed sequence.")] = "optuna",
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Trials at once, one on each GPU (or CPU).")] = 1,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Run folder. Default: runs/NAME.")
    ] = None,
    changes: Changes = None,
    json_: AsJson = False,
    dry: DryRun = False,
):  # fmt: skip
    """Search learning rates by part with short trials; confirm the best on other speakers of dev."""
    from shibolet.rounds.search.stage import Asked, do_search
    from shibolet.rounds.search.writing import write_found

    if proposals not in ("optuna", "halton"):
        raise RecipeError(f"--proposals {proposals}: they come from optuna or from halton")
    if out is not None and out.exists():
        raise RecipeError(f"'{out}' exists; name a new file for the recipe")
    asked = Asked(
        parts=tuple(part or ()), warmup=warmup, ranks=tuple(rank or ()), layers=tuple(layers or ()), phase=phase,
        num_trials=trials, most=most, budget=budget, proposals=proposals,
    )  # fmt: skip
    with round_of(recipe, run_dir, changes, json_, dry) as current:
        current.gpus = gpus
        table = do_search(current, asked)
        if out is not None:
            write_found(current.recipe, recipe, table, out)
        folder = run_folder(run_dir, current.recipe.name)
    answer(json_, table)
    if out is not None and not json_:
        say(_written(table, out))
        advise("train it", "train", str(out), "-o", str(folder))


def _written(table: "SearchTable", out: Path) -> str:
    rates = f"with these rates, compared {table.reached}" if table.is_shown else "with the recipe's own rates"
    return f"{out}: the recipe {rates}."
