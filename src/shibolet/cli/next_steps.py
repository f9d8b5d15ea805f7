"""What to do after a command: one sentence at its end on the error output, with the command for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shibolet.recipe import Recipe
    from shibolet.records.documents.comparison import Comparison
    from shibolet.records.documents.gate import GateVerdict

AFTER = {  # a stage by itself -> what comes after it, and its command
    "label": ("prepare what was labelled", "prepare"),
    "prepare": ("train on what is kept", "train"),
    "train": ("score the result and the baseline", "evaluate"),
    "evaluate": ("say whether the result is better", "compare"),
}


def advise(what: str, *command: str, opening: str = "Next") -> None:
    """Say it: what to do, and the command of shibolet for it."""
    from shibolet.cli.terminal import tell_next

    tell_next(what, *(["shibolet", *command] if command else []), opening=opening)


def same(recipe: str, run_dir: Path | None, changes: Sequence[str] | None) -> list[str]:
    """The recipe, the folder and the changes of a command, for the next one."""
    options = [word for change in changes or [] for word in ("--set", change)]
    return [recipe, *(["-o", str(run_dir)] if run_dir else []), *options]


def after_stage(stage: str, where: Sequence[str]) -> None:
    what, command = AFTER[stage]
    advise(what, command, *where)


def after_gate(gate: "GateVerdict", where: Sequence[str], recipe: "Recipe") -> None:
    """The way on from each verdict."""
    trains = bool(recipe.models and recipe.train)
    if gate.decision == "INVALID" and gate.next == "stop":
        advise("name another recogniser in audit.recogniser, since this one could not judge the data")
    elif gate.decision == "CAUTION" and (gate.next == "stop" or not trains):
        advise("hear as many more as would settle it", "audit", *where, "--extend")
    elif not trains:
        advise("listen to the worst on the audit's page; to train on the data, name models and train in the recipe")
    elif gate.next == "continue":
        advise("run the round on this data", "run", *where)
    else:
        repair = [] if gate.next == "repair" else ["--set", "gate.on_stop=repair"]
        advise("drop what is wrong, judge again and train", "run", *where, *repair)


def after_compare(run_dir: Path, *, is_kept: bool) -> None:
    """A kept round is published, and the next one begins from it; of another the page says why."""
    if is_kept:
        advise("open the page; then publish the model", "publish", str(run_dir), "--to", "ORG/NAME")
        advise("write the recipe of the next round", "next", str(run_dir), "-o", "NEXT.yaml", opening="Or")
    else:
        advise("read on the page, in its section on the comparison, why the round is not kept")


def after_run(
    run_dir: Path, code: int, where: Sequence[str], recipe: "Recipe", *, gate: "GateVerdict",
    gate_prepared: "GateVerdict | None" = None, compare: "Comparison | None" = None,
) -> None:  # fmt: skip
    """By the last verdict of a round."""
    if compare:
        after_compare(run_dir, is_kept=code == 0)
    elif code and gate_prepared:
        advise("listen to the worst on the audit's page, which repair could not mend")
    elif code:
        after_gate(gate, where, recipe)
    else:
        advise("name evaluate.sets in the recipe, and score the result on them", "evaluate", *where)
