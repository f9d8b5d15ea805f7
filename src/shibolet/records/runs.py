"""From a model to the run folder that made it."""

from pathlib import Path

from shibolet.records.runfolder import RunFolder

MANIFEST = "manifest.jsonl"  # of what prepare kept
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


def prepared_of(model: str) -> Path | None:
    """The `prepared/` of the run folder that a model was trained in; None for any other model."""
    run = run_of(Path(model))
    return run.prepared if run and (run.prepared / MANIFEST).is_file() else None
