"""The command that lists the recipes of the package and copies one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from shibolet.errors import RecipeError

FOR, NEEDS = "# For: ", "# Needs: "  # how a shipped recipe's first two lines begin


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Print this one; without it, list all. With --keys: print this section."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy it there, and never over a file that exists.")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Print the keys of recipes: default, type and meaning of each.")
    ] = False,
):
    """List the recipes that ship with the package, or copy one to start from; or print the keys that recipes have."""
    from shibolet.cli.next_steps import advise
    from shibolet.cli.terminal import table, tell
    from shibolet.errors import did_you_mean
    from shibolet.recipe import shipped_recipes

    if keys:
        if to is not None:
            raise RecipeError("recipes: --to copies a recipe, and --keys prints keys; leave out one of the two")
        _print_keys(name or "")
        return
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


def _print_keys(prefix: str) -> None:
    """Keys at or below `prefix`, which may have indices as in --set, else those of that name anywhere; or all."""
    from shibolet.cli.terminal import explained
    from shibolet.errors import did_you_mean
    from shibolet.recipe import Recipe
    from shibolet.records.reference import sections

    def plain(place: str) -> str:
        return ".".join(part for part in place.replace("[]", "").split(".") if part and not part.isdigit())

    rows = []  # name, what is printed first, what is printed below
    for section in sections(Recipe):
        for key in section.keys:
            name = plain(f"{section.place}.{key.name}")
            rows.append((name, f"{name}: {key.default}", f"{key.kind}. {key.meaning}".replace("`", "")))
        if section.like is not None:
            said = f"It has the keys of {section.like} too: --keys {plain(section.like)}"
            rows.append((plain(section.place), section.place, said))
    wanted = plain(prefix)
    found = [row for row in rows if not wanted or f"{row[0]}.".startswith(f"{wanted}.")]
    found = found or [row for row in rows if row[0].endswith(f".{wanted}")]
    if not found:
        raise RecipeError(f"recipes: a recipe has no key '{prefix}'{did_you_mean(wanted, [row[0] for row in rows])}")
    explained([(first, below) for _, first, below in found])


def about(text: str) -> tuple[str, str]:
    """What a recipe is for and what it needs, by its first lines."""
    lines = text.splitlines()[:2]
    return tuple(line.removeprefix(mark) for line, mark in zip(lines, (FOR, NEEDS), strict=True))
