"""The command that lists the recipes of the package and copies one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from shibolet.errors import RecipeError

FOR, NEEDS = "# For: ", "# Needs: "  # how a shipped recipe's first two lines begin


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one; without it, list all.")] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy it there, and never over a file that exists.")
    ] = None,
):
    """List the recipes that ship with the package, or copy one to start from."""
    from shibolet.cli.next_steps import advise
    from shibolet.cli.terminal import table, tell
    from shibolet.errors import did_you_mean
    from shibolet.recipe import shipped_recipes

    shipped = shipped_recipes()
    if name is None:
        if to is not None:
            raise RecipeError(
                "recipes: --to copies one recipe; name it, as in shibolet recipes hebrew-small --to my.yaml"
            )
        rows = [(one, *about(path.read_text(encoding="utf-8"))) for one, path in shipped.items()]
        table("Recipes of the package", ("recipe", "for", "needs"), rows)
        advise("copy one, change what you need, then 'shibolet check FILE'", "recipes", "NAME", "--to", "FILE")
        return
    if name not in shipped:
        raise RecipeError(f"recipes: no '{name}' ships, only {', '.join(shipped)}{did_you_mean(name, list(shipped))}")
    content = shipped[name].read_bytes()
    if to is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    from shibolet.records.files import make_folder

    make_folder(to.parent)
    try:
        with to.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise RecipeError(f"recipes: '{to}' exists, and is not written over; give another name") from None
    tell(f"{to} is a copy of {name}")
    advise("see whether the models and data of it can be had", "check", str(to))


def about(text: str) -> tuple[str, str]:
    """What a recipe is for and what it needs, by its first lines."""
    lines = text.splitlines()[:2]
    return tuple(line.removeprefix(mark) for line, mark in zip(lines, (FOR, NEEDS), strict=True))
