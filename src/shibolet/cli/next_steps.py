"""What to do after a command: one sentence at its end on the error output, with the command for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shibolet.recipe import Recipe
    from shibolet.records.documents.comparison import Comparison
    from shibolet.records.documents.decoding import DecodingTable
    from shibolet.records.documents.gate import GateVerdict
    from shibolet.records.documents.lineage import Chain
    from shibolet.records.documents.loop import Loop

AFTER = {  # a stage by itself -> what comes after it, and its command
    "label": ("prepare what was labelled", "prepare"),
    "prepare": ("train on what is kept", "train"),
    "train": ("score the result and the baseline", "evaluate"),
    "evaluate": ("say whether the result is better", "compare"),
}
EXPORTED = {  # a format of `export-data` -> how its folder {out} is opened
    "datasets": "open it in Python with datasets.load_dataset('{out}')",
    "lhotse": "open the manifests in {out} with lhotse; paths of audio in them start at that folder",
    "nemo": "name {out}/train_manifest.jsonl as a manifest of NeMo",
    "verdicts": "open {out}/verdicts.parquet with pandas, DuckDB or another program that reads Parquet",
}


def advise(what: str, *command: str, opening: str = "Next") -> None:
    """Say it: what to do, and the command of shibolet for it."""
    from shibolet.cli.terminal import tell_next

    tell_next(what, *(["shibolet", *command] if command else []), opening=opening)


def same(recipe: str, run_dir: Path | None, changes: Sequence[str] | None) -> list[str]:
    """The recipe, the folder and the changes of a command, for the next one."""
    return [recipe, *(["-o", str(run_dir)] if run_dir else []), *_set(changes or [])]


def _set(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


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


def after_compare(run_dir: Path, *, is_kept: bool, is_round: bool = True) -> None:
    """A kept round is published, and the next one begins from it; of another the page says why."""
    if not is_round:
        advise("see it as a page", "report", str(run_dir))
    elif is_kept:
        advise("open the page; then publish the model", "publish", str(run_dir), "--to", "ORG/NAME")
        advise("write the recipe of the next round", "next", str(run_dir), "-o", "NEXT.yaml", opening="Or")
    else:
        advise("read on the page, in its section on the comparison, why the round is not kept")


def of_run(run_dir: Path) -> list[str]:
    """The recipe and the folder of a run, for a command that was given the folder alone."""
    return same(str(run_dir / "recipe.yaml"), run_dir, None)


def after_rounds(chain: "Chain", run_dir: Path) -> None:
    """By the verdict of the last round."""
    verdict = chain.rounds[-1].verdict
    if verdict is None:
        advise("finish the last round", "run", *of_run(run_dir))
    else:
        after_compare(run_dir, is_kept=verdict == "keep")


def after_loop(found: "Loop", folder: Path) -> None:
    """The round to keep is published; where none gained, the page of the last one says why."""
    if found.best is not None:
        after_compare(folder / found.best, is_kept=True)
    else:
        advise(f"read on the page why no round gained: {folder / found.turns[-1].folder / 'report.html'}")


def after_tuning(tuned: "DecodingTable", where: Sequence[str], *, is_own: bool) -> None:
    """The scores with the recommended setting; of another model than the round's own there is no command."""
    chosen = tuned.recommended
    changes = [f"evaluate.{key}={value:g}" for key, value in chosen.recipe_keys.items()]
    if chosen.ngram_weight:
        changes.append(f"evaluate.ngram={{file: {tuned.ngram}, weight: {chosen.ngram_weight:g}}}")
    if is_own:
        advise("score the result and the baseline with it", "evaluate", *where, *_set(changes))
    else:
        advise("put it into the recipe that scores this model")


def after_transcribing(model: str, told: Mapping[str, object]) -> None:
    """The scores of the same model, told the same by these options; None is not told."""
    options = [word for option, value in told.items() if value is not None for word in (option, str(value))]
    advise("count its errors where texts are known", "evaluate", "--model", model, "--manifest", "FILE", *options)


def after_converting(out: Path, reader: str | None) -> None:
    """`reader`: the program that a folder is for which nothing here reads back."""
    if reader is not None:
        advise(f"open it with {reader}")
    else:
        advise("check it on 20 utterances or more", "verify", str(out), "MANIFEST", "--language", "NAME")


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
