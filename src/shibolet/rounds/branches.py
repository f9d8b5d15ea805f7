"""Where a training begins: at the beginning, where it was cut off, or at a checkpoint of one with other settings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shibolet.errors import RecipeError
from shibolet.records.differences import differing, first
from shibolet.rounds.shared import Round

if TYPE_CHECKING:
    from shibolet.train.branch import Branch

_STEP, _EARLIER = "from_step", "earlier"  # inputs of a training that went on from a step that somebody named


def branch_of(current: Round, plain: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Path], str] | None]:
    """The inputs of the train stage, and what begins it where another training has done a part of it.

    One that went on from a step stays the training of its recipe, as `--only-through` does, until the recipe changes.
    """
    folder, config, step = current.folder, current.recipe.train, current.from_step
    before = folder.inputs("train")
    begun_at = before.get(_STEP)
    ours = _plain(before)
    if ours == json.loads(json.dumps(plain)) and step in (None, begun_at):
        if begun_at:
            current.tell(f"train: this is the training that --from-step {begun_at} began")
        return before, None
    changed = changed_beside_train(current, plain)
    if step is None and not before:
        return plain, _begun(current, _of_search(current, plain))
    if step is None and changed:
        return plain, None
    if step is not None and not before:
        raise RecipeError(f"--from-step {step}: there is no training in {folder.path} to go on from")
    if changed:
        raise RecipeError(
            f"--from-step {step}: {first(changed)} changed since the checkpoints in {folder.checkpoints} were written; "
            "only settings of training may change"
        )
    from shibolet.train import branch

    if step is not None:
        if folder.finished("train"):
            folder.intact("train", records=False)
        found = branch.from_step(folder.train, step, config)
        plain = {**plain, _STEP: step, _EARLIER: [part.model_dump(mode="json") for part in found.earlier]}
    else:
        others = [branch.unchanged(folder.train, config), _of_search(current, plain)]
        found = max(filter(None, others), key=lambda one: one.states[-1].step, default=None)
    return plain, _begun(current, found)


def changed_beside_train(current: Round, plain: dict[str, Any]) -> list[str]:
    """Names of inputs but `train.*` settings of which the training in the run folder has others, or there is none."""
    return [name for name in differing(_plain(current.folder.inputs("train")), plain) if name != "train"]


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in (_STEP, _EARLIER)}


def _begun(current: Round, found: "Branch | None") -> Callable[[Path], str] | None:
    """What puts the beginning of a training into a folder like the round's; None: it has none."""
    if found is None:
        return None

    def fill(place: Path) -> str:
        found.fill(place / current.folder.train.relative_to(current.folder.path))
        return found.sentence

    return fill


def _of_search(current: Round, plain: dict[str, Any]) -> "Branch | None":
    """The trial of a finished search that these settings would have made, on the same data from the same base."""
    from shibolet.train import branch

    searched = current.folder.inputs("search")
    asked = {name: value for name, value in {"styles": None, "replay": None, **plain}.items() if name != "train"}
    if not current.folder.finished("search") or differing(
        {name: searched.get(name) for name in asked}, json.loads(json.dumps(asked))
    ):
        return None
    for trial in sorted((current.folder.path / "search" / "trials").glob("*/train")):
        if (trial / "checkpoints").is_dir() and (found := branch.unchanged(trial, current.recipe.train)):
            return replace(found, sentence=f"goes on from step {found.states[-1].step:,} of the search's trial")
    return None
