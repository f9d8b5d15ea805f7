"""From a model to the run folder that made it."""

from pathlib import Path

from shibolet.records.runfolder import RunFolder

SEED = "seed"  # among the inputs of a training


def run_of(model: Path) -> RunFolder | None:
    """The run folder that a model was trained or averaged in; None for any other model."""
    path = model.absolute()
    for place in path.parents[1:3]:
        if path in ((run := RunFolder(place)).final, run.averaged(path.parent.name)):
            return run
    return None


def stage_of(model: Path, run: RunFolder) -> str:
    """The stage that made a model of a run folder."""
    return "train" if model.absolute() == run.final else f"average/{model.absolute().parent.name}"


def seed_of(run: Path) -> int | None:
    """The seed of the training in a run folder, whatever its recipe says since; None where none was begun."""
    return RunFolder(run).inputs("train").get(SEED)
