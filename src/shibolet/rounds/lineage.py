"""From one round to the next: its recipe, and what the next takes over from the folder of the round before."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from shibolet.errors import DataError, RecipeError
from shibolet.recipe import ModelsConfig, Recipe, find_recipe, load_recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.files import take_over, write_bytes
from shibolet.records.runfolder import RunFolder
from shibolet.records.settings import settings_yaml
from shibolet.rounds.shared import Tell

OWN = ("name", "title", "parent", "models")  # what makes it the next round


def write_next(
    run_dir: Path, path: Path, *, source: str | None = None, title: str | None = None,
    changes: Sequence[str] = (), force: bool = False,
) -> Recipe:  # fmt: skip
    """Write the recipe of the round after `run_dir`: that round's model is where it starts and what it has to beat.

    `source` is the recipe that it is like (a file or a name), else that of the round itself; comments stay, unless
    there are `changes` (`a.b=value`) or paths that lead elsewhere from the new place. DataError
    where nothing was trained there, or where its model was not kept and `force` does not take it all the same.
    """
    if own := [change for change in changes if re.split(r"[.=]", change)[0] in OWN]:
        raise RecipeError(f"--set {own[0]}: 'next' itself decides {', '.join(OWN)}; edit the file that it writes")
    folder = RunFolder(Path(os.path.normpath(run_dir.absolute())))
    folder.intact("start", "train", "compare")
    before = load_recipe(folder.recipe)
    before.require("next", "models", "train")
    if path.exists():
        raise RecipeError(f"'{path}' exists; name a new file for the next round's recipe")
    if not folder.finished("train"):
        raise DataError(f"{run_dir}: nothing is trained there; 'shibolet run' comes first")
    if not force and not folder.compare.is_file() and before.evaluate.sets:
        raise DataError(
            f"{run_dir}: {before.title} was not compared yet: 'shibolet run' does it; --force takes it all the same"
        )
    if not force and folder.compare.is_file() and (verdict := Comparison.read(folder.compare).verdict) != "keep":
        raise DataError(
            f"{run_dir}: {before.title} is not kept (verdict '{verdict}'), so the next round would start from a model "
            "that was shown no better; --force takes it all the same"
        )
    final = str(folder.final)
    like = find_recipe(source) if source else folder.recipe
    base = load_recipe(like, [f"models.base={final}", f"models.baseline={final}", *changes])
    trained = [one.name for one in before.data.train]
    known = {one.name for one in base.data.train}
    models = ModelsConfig(
        base=final,
        baseline=final,
        baseline_title=before.title,
        baseline_trained_on=tuple(
            name for name in dict.fromkeys([*trained, *before.models.baseline_trained_on]) if name in known
        ),
    )
    wanted = base.model_copy(
        update={
            "name": path.stem,
            "title": title or title_after(before.title),
            "parent": folder.path,
            "models": models,
        }
    )
    text = _with_blocks(like.read_text(encoding="utf-8"), wanted, path)
    write_bytes(path, text.encode())
    if not reads_as(path, wanted):  # its own paths start at another folder, or its blocks are not where they should be
        write_bytes(path, (_heading(wanted, path) + settings_yaml(wanted, path.parent)).encode())
    return load_recipe(path)


def title_after(title: str) -> str:
    """The title of the round after one: its last number is one more."""
    if not (found := re.search(r"\d+(?=\D*$)", title)):
        raise RecipeError(f"the round before is called '{title}', without a number; name this one with --title")
    return f"{title[: found.start()]}{int(found[0]) + 1}{title[found.end() :]}"


def take_over_evidence(folder: RunFolder, tell: Tell) -> None:
    """What the round before heard, so that this one hears nothing of it again: evidence is found by content."""
    if folder.parent is None:
        return
    heard = folder.parent.audit() / "heard"
    if not heard.is_dir():
        tell(f"parent: {folder.parent.path} has no evidence to take over; everything is heard here")
        return
    take_over(heard, folder.audit() / "heard")


def _heading(recipe: Recipe, path: Path) -> str:
    return f"# {recipe.title}, after {recipe.models.baseline_title}:\n#   shibolet run {path}\n\n"


def _with_blocks(text: str, wanted: Recipe, path: Path) -> str:
    """A recipe's text with `name`, `title`, `parent` and `models` of another; all else, comments too, as it is."""
    written = blocks_of(settings_yaml(wanted, path.parent))
    replaced = {name: written[name] for name in OWN}
    blocks = {name: block for name, block in blocks_of(text).items() if name and name not in replaced}
    *first, models = map(replaced.__getitem__, ("name", "title", "parent", "models"))
    rest = [blocks.pop(name) for name in ("language", "seed") if name in blocks]
    return _heading(wanted, path) + "".join([*first, *rest, "\n", models, "\n", *blocks.values()])


def blocks_of(text: str) -> dict[str, str]:
    """The text of each top-level key of a YAML file; "" for what stands before the first."""
    parts = re.split(r"(?m)^(?=[a-z_]+:)", text)
    return {re.match(r"(?:([a-z_]+):)?", part)[1] or "": part for part in parts}


def reads_as(path: Path, wanted: Recipe) -> bool:
    try:
        return load_recipe(path) == wanted
    except RecipeError:
        return False
