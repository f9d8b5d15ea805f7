"""Other seeds of the trainings that a round compares: which run folders are that, and their models as candidates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shibolet.compare.config import CompareConfig
from shibolet.errors import RecipeError
from shibolet.records.candidate import Candidate, Model
from shibolet.records.differences import differing, first
from shibolet.records.runfolder import RunFolder
from shibolet.records.runs import run_of, stage_of
from shibolet.records.settings import peek
from shibolet.rounds.shared import Round, prepared_of

# Of the inputs of a training and of its data: what may differ between two seeds, and what follows from it.
_MAY_DIFFER = {"seed", "prepared", "verdicts"}


def require_seeds(config: CompareConfig) -> None:
    """DataError where a run that the recipe names is not trained: known now, not once this training is paid for."""
    for path in (*config.baseline_seeds, *config.candidate_seeds):
        RunFolder(path).verified("train")


def with_other_seeds(current: Round, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Baseline and candidate, and the models of the run folders in `compare.baseline_seeds` and `candidate_seeds`.

    RecipeError where one of these is not the same training with a seed of its own.
    """
    found = list(candidates)
    for own, key, others in zip(candidates, ("baseline_seeds", "candidate_seeds"), current.seeds):
        if not others:
            continue
        trained = _run_of(own, f"compare.{key}")
        known = {peek(trained.recipe, "seed"): trained.path}
        for path, named in others.items():
            run = RunFolder(path)
            run.verified("train")
            if wrong := first([n for n in differing(_of(trained), _of(run)) if n not in _MAY_DIFFER]):
                raise RecipeError(
                    f"compare.{key}: {path} is another training than {trained.path}: its {wrong} differ; runs of one "
                    "recipe with other seeds (--set seed=N) are compared as one training"
                )
            if (seed := peek(run.recipe, "seed")) in known:
                raise RecipeError(f"compare.{key}: {path} and {known[seed]} both have the seed {seed}; name others")
            known[seed] = path
            model = str(run.final.absolute())
            found.append(Candidate(named, Model(model, prepared_of(model))))
    return found


def _run_of(own: Candidate, key: str) -> RunFolder:
    """The run folder that trained what is compared."""
    model = own.source.name if isinstance(own.source, Model) else ""
    run = run_of(Path(model))
    if run is None or stage_of(Path(model), run) != "train":
        raise RecipeError(
            f"{key}: {own.title} ({model or 'hypotheses'}) is not the model that a run folder has trained, so no run "
            "is known to be the same training with another seed; leave the key out"
        )
    run.verified("train")
    return run


def _of(run: RunFolder) -> dict[str, Any]:
    """What the training in a run folder was made from: its data, without their split, and its settings."""
    return {**run.inputs("prepare"), **run.inputs("train")}
