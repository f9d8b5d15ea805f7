"""Where a training begins: at the beginning, where it was cut off, or at a checkpoint of one with other settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shibolet.errors import RecipeError
from shibolet.records.differences import differing, first
from shibolet.rounds.shared import Round

_STEP, _EARLIER = "from_step", "earlier"  # inputs of a training that went on from a step that somebody named


def branch_of(current: Round, plain: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Path], str] | None]:
    """The inputs of the train stage, and what begins it where another training has done a part of it.

    One that went on from a step stays the training of its recipe, as `--only-through` does, until the recipe changes.
    """
    folder, config, step = current.folder, current.recipe.train, current.from_step
    before = folder.inputs("train")
    begun_at = before.get(_STEP)
    ours = {name: value for name, value in before.items() if name not in (_STEP, _EARLIER)}
    if ours == json.loads(json.dumps(plain)) and step in (None, begun_at):
        if begun_at:
            current.tell(f"train: this is the training that --from-step {begun_at} began")
        return before, None
    changed = [name for name in differing(ours, plain) if name != "train"]
    if step is None and (changed or not before):
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
    elif (found := branch.unchanged(folder.train, config)) is None:
        return plain, None

    def fill(place: Path) -> str:
        found.fill(place / folder.train.relative_to(folder.path))
        return found.sentence

    return plain, fill
