"""`shibolet review`: listening to what the audit found, alone or with others."""

from pathlib import Path
from typing import Annotated

import typer

from shibolet.cli.next_steps import advise, of_run
from shibolet.cli.options import FinishedRun, quiet, require_run
from shibolet.errors import RecipeError


def review(
    run_dir: FinishedRun,
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, metavar="N", help="Port of 127.0.0.1; else a free one.")
    ] = None,
    take_in: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Only add answers: answers.jsonl, or JSON of Label Studio."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --import: whose answers audit.html saved, else the file's.")
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option("--export-label-studio", metavar="DIR", help="Only write tasks with sound for Label Studio."),
    ] = None,
):
    """Serve a page of this machine on which people listen, judge and correct; answers are kept at once."""
    from shibolet.rounds.reviewing.serving import export_to_label_studio, serve, take_in_file

    quiet()
    require_run(run_dir)
    if sum(value is not None for value in (port, take_in, export_to)) > 1:
        raise RecipeError("review: give one of --port, --import and --export-label-studio")
    if by is not None and take_in is None:
        raise RecipeError("review: --by is the name for a file; give --import FILE too")
    if take_in is not None:
        typer.echo(take_in_file(run_dir, take_in, by))
        _advise(run_dir, "compute the corrected rate")
    elif export_to is not None:
        typer.echo(export_to_label_studio(run_dir, export_to))
        typer.echo("docs/review.md says how Label Studio plays the sound beside them.")
    else:
        serve(run_dir, port, lambda url: _told(run_dir, url))


def _told(run_dir: Path, url: str) -> None:
    typer.echo(f"Open {url}")
    typer.echo("Answers are kept in audit/answers.jsonl as they are given. Ctrl-C ends this.")
    _advise(run_dir, "when you have answered, compute the corrected rate")


def _advise(run_dir: Path, what: str) -> None:
    advise(f"{what}; 'shibolet prepare' takes the answers too", "audit", *of_run(run_dir))
