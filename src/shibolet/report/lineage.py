"""The chain of rounds that led to one, read from their run folders."""

from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.lineage import Chain, Gain, RoundOfChain
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.training import StepRow
from shibolet.records.runfolder import RunFolder
from shibolet.records.settings import peek


def chain_of(run_dir: Path) -> Chain:
    """The rounds that led to the one in `run_dir`, with what each gained."""
    folders, missing = folders_of(run_dir)
    for folder in folders:
        folder.intact("start", "compare", "train", *folder.evaluated())
    rounds = [_round(folder) for folder in folders]
    first = _compared(folders[0])
    return Chain(rounds=(*([_baseline(folders[0], first)] if first else []), *rounds), missing=missing)


def folders_of(run_dir: Path) -> tuple[list[RunFolder], str | None]:
    """The rounds that led to the one in `run_dir`, the first one first, by the parent that each recipe names.

    With a sentence where one is not there any more; DataError for a circle.
    """
    folders, missing = [RunFolder(run_dir)], None
    while (parent := _parent(folders[0])) is not None:
        if not parent.recipe.is_file():
            missing = (
                f"{folders[0].path.name} came after a round whose folder is not there any more: {parent.path.name}"
            )
            break
        if any(parent.path.resolve() == folder.path.resolve() for folder in folders):
            raise DataError(f"{folders[0].path}: the round before is '{parent.path}', which comes after it")
        folders.insert(0, parent)
    return folders, missing


def _parent(folder: RunFolder) -> RunFolder | None:
    named = peek(folder.recipe, "parent")
    return None if named is None else RunFolder(folder.path / named)


def _compared(folder: RunFolder) -> Comparison | None:
    return Comparison.read(folder.compare) if folder.compare.is_file() else None


def _baseline(folder: RunFolder, compared: Comparison) -> RoundOfChain:
    """What the first round of a chain had to beat."""
    sets = {name: _wer(folder, compared.baseline.label, name) for name in compared.sets}
    return RoundOfChain(title=compared.baseline.title, folder=None, sets=sets)


def _wer(folder: RunFolder, label: str, name: str) -> Gain:
    scores = Scores.read(folder.scores(label, name))
    return Gain(wer=scores.wer.rate, interval=scores.wer.interval)


def _round(folder: RunFolder) -> RoundOfChain:
    compared = _compared(folder)
    sets = {}
    for name, block in compared.sets.items() if compared else ():
        gained = {"points": block.wer.delta_points, "interval_points": block.wer.interval_points}
        sets[name] = _wer(folder, compared.candidate.label, name).model_copy(update=gained)
    return RoundOfChain(
        title=str(peek(folder.recipe, "title")),
        folder=str(folder.path),
        verdict=compared.verdict if compared else None,
        sets=sets,
        **_spent(folder),
    )


def _spent(folder: RunFolder) -> dict[str, float | int | None]:
    """Hours and cost of the training; nothing where none was."""
    steps = StepRow.read_all(folder.metrics)
    if not steps or not folder.plan.is_file():
        return {}
    plan = Plan.read(folder.plan)
    hours = sum(step.timing.step_s + step.timing.checkpoint_s for step in steps) / 3600
    if steps[-1].memory is None:
        return {"hours": hours}
    price = plan.cost.price_per_gpu_hour_usd
    return {"hours": hours, "gpus": plan.gpu.number, "usd": None if price is None else price * hours * plan.gpu.number}
