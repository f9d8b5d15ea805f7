"""The recipe that a search writes: the one that was searched, with the rates to train with."""

from pathlib import Path

from shibolet.errors import RecipeError
from shibolet.recipe import Recipe, find_recipe, load_recipe, write_recipe
from shibolet.records.documents.search import SearchTable
from shibolet.records.files import write_bytes
from shibolet.records.settings import settings_yaml
from shibolet.rounds.lineage import blocks_of, reads_as
from shibolet.rounds.search.dimensions import phase_at


def write_found(recipe: Recipe, source: str, table: SearchTable, path: Path) -> Recipe:
    """Write `recipe`, which was read from `source`, with the rates that the table recommends.

    Comments stay outside `train`, unless there are changes of the command line or paths that lead elsewhere from the
    new place.
    """
    if path.exists():
        raise RecipeError(f"'{path}' exists; name a new file for the recipe")
    trial = next(one for one in table.trials if one.number == table.recommended)
    phases = tuple(
        phase_at(phase, table.dimensions, trial.factors) if phase.name == table.phase else phase
        for phase in recipe.train.phases
    )
    wanted = recipe.model_copy(update={"train": recipe.train.model_copy(update={"phases": phases})})
    blocks = blocks_of(find_recipe(source).read_text(encoding="utf-8"))
    written = blocks_of(settings_yaml(wanted, path.parent))
    blocks |= {name: f"{block}\n" for name, block in written.items() if name == "train"}
    write_bytes(path, "".join(blocks.values()).encode())
    if not reads_as(path, wanted):
        write_recipe(wanted, path)
    return load_recipe(path)
