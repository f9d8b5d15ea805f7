"""The recipe that a search writes: the one that was searched, with the rates to train with."""

import re
from pathlib import Path

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe, find_recipe, load_recipe, write_recipe
from shibolet.records.documents.search import SearchTable
from shibolet.records.files import write_bytes
from shibolet.records.settings import settings_yaml
from shibolet.rounds.lineage import blocks_of, reads_as
from shibolet.rounds.search.dimensions import training_at


def write_found(recipe: Recipe, source: str, table: SearchTable, path: Path) -> Recipe:
    """Write `recipe`, which was read from `source`, with the rates that the table recommends.

    Comments stay outside `train`, unless there are changes of the command line or paths that lead elsewhere from the
    new place. A new one in `train` says after how many steps rates that were found were compared.
    """
    if path.exists():
        raise RecipeError(f"'{path}' exists; name a new file for the recipe")
    trial = next(one for one in table.trials if one.number == table.recommended)
    index = [phase.name for phase in recipe.train.phases].index(table.phase)
    found = training_at(recipe.train, index, table.dimensions, trial.factors)
    wanted = recipe.model_copy(update={"train": found})
    blocks = blocks_of(find_recipe(source).read_text(encoding="utf-8"))
    written = blocks_of(settings_yaml(wanted, path.parent))
    blocks |= {name: f"{block}\n" for name, block in written.items() if name == "train"}
    write_bytes(path, "".join(blocks.values()).encode())
    if not reads_as(path, wanted):
        write_recipe(wanted, path)
    if table.is_shown:
        _say_what_is_shown(table, path)
    return load_recipe(path)


def _say_what_is_shown(table: SearchTable, path: Path) -> None:
    """A comment in `train`, which goes with these settings wherever they are written anew."""
    found = f"Rates of phase {table.phase}: trial {table.recommended} of 'shibolet search'"
    said = f"{found}, compared {table.reached}."
    more = "" if table.is_whole else "\n  # A gain at the end of the phase is not shown by that."
    text = path.read_text(encoding="utf-8")
    write_bytes(path, re.sub(r"(?m)^train:\n", lambda key: f"{key[0]}  # {said}{more}\n", text, count=1).encode())
