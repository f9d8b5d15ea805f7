"""Commands from round to round."""

from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.options import AsJson, Changes, FinishedRun, print_json, require_run


def rounds(run_dir: FinishedRun, json_: AsJson = False):
    """The rounds that led to this one: verdicts, WER by set with intervals, time and cost."""
    from shibolet.cli.tables import show_chain
    from shibolet.report.lineage import chain_of

    require_run(run_dir)
    chain = chain_of(run_dir)
    print_json(chain.model_dump(mode="json")) if json_ else show_chain(chain)


def next_(
    run_dir: FinishedRun,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the recipe goes.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="RECIPE", help="A recipe that it is like, such as hebrew-round3.")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="What people read of it; else the number after this round's.")
    ] = None,
    changes: Changes = None,
    force: Annotated[bool, typer.Option("--force", help="Start from a model that was not kept.")] = False,
):
    """Write the recipe of the next round: it starts from this one's model, has to beat it, and takes over its work."""
    from shibolet.rounds.lineage import write_next

    require_run(run_dir)
    recipe = write_next(run_dir, out, source=source, title=title, changes=changes or [], force=force)
    typer.echo(f"{out}: {recipe.title}, after {recipe.models.baseline_title}. To run it: shibolet run {out}")
